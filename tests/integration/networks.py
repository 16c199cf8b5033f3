"""Hosts with networks of their own on one machine: a network namespace each, on one bridge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

# Of the process, so that two test sessions on one machine do not meet.
NUMBER = os.getpid() % 250
BRIDGE, NETWORK = f"hsbr{NUMBER}", f"10.213.{NUMBER}"
# The address of this machine on the bridge.
HERE = f"{NETWORK}.254"


def namespace(host: str) -> str:
    return f"hs{NUMBER}{host}"


def ip(*arguments: str) -> bytes:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True).stdout


@contextmanager
def networks(hosts: Sequence[str]) -> Iterator[dict[str, str]]:
    """A namespace a host; their addresses. What runs there at the end is killed."""
    if not all(shutil.which(name) for name in ("ip", "nsenter", "unshare")):
        pytest.skip("needs ip, nsenter and unshare")
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no networks can be made here: {error.stderr.decode().strip()}")
    addresses = {host: f"{NETWORK}.{number}" for number, host in enumerate(hosts, start=1)}
    try:
        ip("address", "add", f"{HERE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for number, host in enumerate(hosts):
            inside, outside = namespace(host), f"hs{NUMBER}v{number}"
            ip("netns", "add", inside)
            ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", inside)
            ip("link", "set", outside, "master", BRIDGE, "up")
            ip("-n", inside, "address", "add", f"{addresses[host]}/24", "dev", "eth0")
            ip("-n", inside, "link", "set", "eth0", "up")
            ip("-n", inside, "link", "set", "lo", "up")
        yield addresses
    finally:
        for number, host in enumerate(hosts):
            # At once, and with both its ends; that of a namespace goes when its last process has.
            with suppress(subprocess.CalledProcessError):
                ip("link", "delete", f"hs{NUMBER}v{number}")
            with suppress(subprocess.CalledProcessError):
                # Ray's workers overwrite their environment with their title.
                for process in ip("netns", "pids", namespace(host)).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                ip("netns", "delete", namespace(host))
        ip("link", "delete", BRIDGE)
