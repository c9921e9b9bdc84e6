# Scheduler and workers in one image. `docker build .` gives it; `--target examples` adds the tasks of examples/.
# PYTHON_IMAGE is the base of all stages: any Debian-like image with Python 3.11 or newer and pip.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python -m venv --without-pip /opt/holdfast
# What it depends on, in a layer of its own: it is kept until pyproject.toml changes.
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; e = p['optional-dependencies']; \
print(*p['dependencies'], *e['scheduler'], *(d for d in e['postgres'] if not d.startswith('holdfast')), sep='\n')" \
    > requirements.txt \
 && python -m pip --python /opt/holdfast install --no-cache-dir --requirement requirements.txt
COPY README.md LICENSE ./
COPY sdk sdk
COPY worker worker
COPY scheduler scheduler
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist . \
 && python -m pip --python /opt/holdfast install --no-cache-dir --no-deps dist/*.whl

FROM ${PYTHON_IMAGE} AS services
# The id is a number so that Kubernetes can see that it is not root.
RUN groupadd --gid 10001 holdfast \
 && useradd --uid 10001 --gid holdfast --no-create-home --home-dir /app --shell /usr/sbin/nologin holdfast \
 && install --directory --owner holdfast --group holdfast /app /var/lib/holdfast
COPY --from=build /opt/holdfast /opt/holdfast
ARG HOLDFAST_BUILD=
ENV PATH=/opt/holdfast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOLDFAST_BUILD=${HOLDFAST_BUILD} \
    HOLDFAST_LISTEN=0.0.0.0:4653 \
    HOLDFAST_DATABASE_URL=sqlite:////var/lib/holdfast/holdfast.sqlite3
WORKDIR /app
USER 10001:10001
# The embedded database. Nothing else is written to, so the root file system may be read-only.
VOLUME /var/lib/holdfast
EXPOSE 4653
# A scheduler asks itself, and so does a worker that has HOLDFAST_WORKER_HEALTH; one that has only HOLDFAST_ADDRESS asks
# the schedulers that it needs.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "holdfast.cli.health"]
# SIGTERM drains either: a scheduler sends its workers elsewhere, a worker finishes or hands back what it executes.
STOPSIGNAL SIGTERM
ENTRYPOINT ["holdfast"]
CMD ["scheduler"]

FROM build AS build-examples
# For the mailbox that takes the example's e-mails.
RUN python -m pip --python /opt/holdfast install --no-cache-dir 'aiosmtpd>=1.4.6'

FROM services AS examples
USER root
RUN install --directory --owner holdfast --group holdfast /data
COPY --from=build-examples /opt/holdfast /opt/holdfast
COPY examples examples
USER 10001:10001
VOLUME /data
ENV EXPORT_FILE=/data/export.sqlite3
CMD ["worker", "examples.invoice_export.tasks", "examples.invoice_export.mailing"]

# What `docker build .` gives.
FROM services
