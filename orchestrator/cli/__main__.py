"""`python -m orchestrator.cli`: how `onelane up` starts its parts."""

from . import main

main()
