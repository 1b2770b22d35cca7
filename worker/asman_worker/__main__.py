"""``python -m asman_worker`` is ``asman worker``."""

from asman_worker.cli import main

main()
