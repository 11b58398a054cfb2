"""`python -m residency`."""

from .cli import main

raise SystemExit(main())
