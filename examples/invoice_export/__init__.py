"""A durable export of an organization's invoices, page by page, and the demonstration that it survives a crash."""
