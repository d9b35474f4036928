"""Whether the server in this container says that it is ready: exit code 0 where HEALTH_URL answers 200, else 1, and why.

A container's health check, which must cost little and needs nothing but Python. Proxies of the environment are passed over.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4
"""Below the time-out of the images' HEALTHCHECK, so that it is this program that says what is wrong."""


def main() -> int:
    """Asks once."""
    url = os.environ["HEALTH_URL"]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as refusal:
        print(f"{url} answers {refusal.code}: {refusal.read(2000).decode(errors='replace')}")
    except OSError as cause:
        print(f"{url} does not answer: {cause}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
