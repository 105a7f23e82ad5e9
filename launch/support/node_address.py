"""Which address and network interface of this machine other nodes reach it by."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCGIFCONF = 0x8912  # netdevice(7): every IPv4 address of this machine with its interface
_MAX_ADDRESSES = 256
_ENTRY_BYTES = 40  # of struct ifreq on 64-bit Linux
_NAME_BYTES = 16


def resolve(host: str) -> str:
    """An address of `host`, IPv4 where it has one. Raises OSError while no name server knows it."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(addresses[0][4][0])


def is_of_this_machine(address: str) -> bool:
    """Only an address of one's own can be bound."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def is_port_busy(address: str, port: int) -> bool:
    """Whether something listens on a port of this machine."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return True
    return False


def is_listening(address: str, port: int, timeout_s: float) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def address_towards(address: str) -> str:
    """The address of this machine that packets to `address` leave from. Nothing is sent."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface that carries an address of this machine; empty if none is found."""
    if address.startswith("127."):
        return "lo"
    addresses = _ipv6_interfaces() if ":" in address else _ipv4_interfaces()
    return addresses.get(address, "")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _ipv4_interfaces() -> dict[str, str]:
    buffer = array.array("B", bytes(_MAX_ADDRESSES * _ENTRY_BYTES))
    request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFCONF, request)
    size: int = struct.unpack("iL", answer)[0]
    entries = buffer.tobytes()[:size]
    return {
        # After the name and, in a sockaddr_in, family and port.
        socket.inet_ntoa(entries[start + 20 : start + 24]): (
            entries[start : start + _NAME_BYTES].split(b"\0")[0].decode().split(":")[0]
        )
        for start in range(0, size, _ENTRY_BYTES)
    }


def _ipv6_interfaces() -> dict[str, str]:
    try:
        with open("/proc/net/if_inet6") as table:
            rows = [line.split() for line in table]
    except FileNotFoundError:
        return {}
    return {
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)): name
        for digits, _, _, _, _, name in rows
    }
