"""`python -m residency`."""

from .cli.main import main

raise SystemExit(main())
