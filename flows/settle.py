"""Former module path of flows.reconcile, for processes that an earlier version started."""

import sys

from flows.reconcile import main

if __name__ == "__main__":
    main(*sys.argv[1:])
