"""Hosts on one machine whose frames take a while: a switch in user space between network namespaces.

Linux, as root. Each host is a namespace with a tap device; what one of them sends reaches the others
after a given time. There is no other way out of the namespaces.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import signal
import struct
import subprocess
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000
FRAME_MAX = 65_536
DEVICE = "cairn0"


class Hosts:
    """So many namespaces, and the switch between them in a process of its own."""

    def __init__(self, count, delay_ms, stack):
        self.names = [f"cairn-bench-{os.getpid()}-{number}" for number in range(count)]
        taps = [self.host(number, name, stack) for number, name in enumerate(self.names)]
        switch = os.fork()
        if switch == 0:
            with contextlib.suppress(KeyboardInterrupt):
                relay(taps, delay_ms / 1e3)
            os._exit(0)
        stack.callback(os.waitpid, switch, 0)
        stack.callback(os.kill, switch, signal.SIGKILL)
        for tap in taps:
            os.close(tap)

    def host(self, number, name, stack):
        """A namespace; gives the switch's end of its wire."""
        ip("netns", "add", name)
        stack.callback(ip, "netns", "delete", name)
        with inside(name):
            tap = os.open("/dev/net/tun", os.O_RDWR)
            flags = struct.pack("16sH", DEVICE.encode(), IFF_TAP | IFF_NO_PI)
            fcntl.ioctl(tap, TUNSETIFF, flags)
            os.set_blocking(tap, False)
            ip("address", "add", f"10.77.0.{number + 1}/24", "dev", DEVICE)
            ip("link", "set", "lo", "up")
            ip("link", "set", DEVICE, "up")
            ip("route", "add", "224.0.0.0/4", "dev", DEVICE)
        return tap


def ip(*words):
    """The tool of that name."""
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def inside(name):
    """Sockets and programs of this thread belong to a namespace meanwhile."""
    enter = ctypes.CDLL(None, use_errno=True).setns
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
        if enter(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")
        try:
            yield
        finally:
            enter(home.fileno(), CLONE_NEWNET)


def relay(taps, seconds):
    """Carries frames for ever; one goes where its receiver was seen, else everywhere."""
    seen, waiting, order = {}, [], 0
    while True:
        until = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        for tap in select.select(taps, [], [], until)[0]:
            frame = os.read(tap, FRAME_MAX)
            receiver, sender = frame[:6], frame[6:12]
            seen[sender] = tap
            known = seen.get(receiver)
            others = [known] if known else [other for other in taps if other != tap]
            order += 1
            heapq.heappush(waiting, (time.monotonic() + seconds, order, others, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _at, _order, receivers, frame = heapq.heappop(waiting)
            for tap in receivers:
                # A full or closed device drops it, as a wire would.
                with contextlib.suppress(OSError):
                    os.write(tap, frame)
