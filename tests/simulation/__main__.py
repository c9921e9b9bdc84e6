"""Plays seeds from the command line: `PYTHONHASHSEED=0 python -m simulation FIRST [COUNT] [--profile NAME] [--show]`,
in the folder `tests`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from holdfast_scheduler.migrations import migrate
from simulation.play import PROFILES, Play


def main() -> int:
    """Play; exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("--profile", default="", choices=["", *PROFILES])
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    failed = 0
    played: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        migrate(f"sqlite:///{folder / 'template'}")
        for seed in range(options.first, options.first + options.count):
            play = Play(seed, folder, folder / "template", profile=options.profile, show=options.show)
            problems = play.run()
            played[play.profile] += 1
            for path in folder.glob(f"{seed}.sqlite3*"):
                path.unlink()
            if problems:
                failed += 1
                print(f"seed {seed} ({play.profile}, slots {play.slots}):", *problems[:4], sep="\n    ")
                sys.stdout.flush()
    print(f"{options.count} plays, {failed} failed, {time.monotonic() - began:.1f} s, {dict(played)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
