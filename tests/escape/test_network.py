"""G3: no connection leaves. In the open each of these reaches a listener, or makes the socket that would."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import call, ctypes, errno, os, socket, struct

attack = Attacks(__file__)


def reading(bait):
    return {"read": [bait["read"]], "write": [bait["write"]]}


@attack
def tcp(bait):
    with socket.create_connection(("127.0.0.1", bait["tcp"]), 2):
        return "connected"


@attack
def tcp_by_ipv6_mapped(bait):
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.connect(("::ffff:127.0.0.1", bait["tcp"]))
        return "connected"


@attack
def udp(bait):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"out", ("127.0.0.1", bait["udp"]))


@attack
def udp_listening(bait):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@attack
def tcp_listening(bait):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return sock.getsockname()[1]


@attack
def tcp_fast_open(bait):
    with socket.socket() as sock:
        try:
            return sock.sendto(b"out", 0x20000000, ("127.0.0.1", bait["tcp"]))
        except OSError as error:
            return "connecting" if error.errno == errno.EINPROGRESS else None


@attack
def multipath_tcp(bait):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as sock:
        sock.connect(("127.0.0.1", bait["tcp"]))
        return "connected"


@attack(control="root")
def raw(bait):
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).fileno()


@attack(control="root")
def packet(bait):
    return call("socket", 17, 3, 0x0300)


@attack(control="root: ping sockets are open to the groups of net.ipv4.ping_group_range only")
def ping(bait):
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).fileno()


@attack
def netlink(bait):
    with socket.socket(16, socket.SOCK_RAW, 0) as sock:
        sock.bind((0, 0))
        return sock.getsockname()[0]


@attack
def netlink_datagram(bait):
    return call("socket", 16, 2, 0)


@attack(control="a kernel with AF_ALG, AF_VSOCK, SCTP, DCCP, UDP-Lite or XDP built in: which are differs")
def other_families(bait):
    made = []
    kinds = [
        (38, 5, 0),
        (40, 1, 0),
        (2, 1, 132),
        (2, 6, 33),
        (2, 2, 136),
        (44, 3, 0),
        (31, 1, 3),
        (21, 5, 0),
        (29, 3, 1),
    ]
    for family, kind, protocol in kinds:
        try:
            made.append(call("socket", family, kind, protocol))
        except OSError:
            continue
    return made or None


@attack
def every_family(bait):
    made = []
    for family in range(64):
        for kind in (1, 2, 3, 5):
            try:
                os.close(call("socket", family, kind, 0))
            except OSError:
                continue
            made.append(family)
            break
        if len(made) > 1 or family > 20:
            break
    return made or None


@attack(spec=reading)
def unix_by_path_in_a_grant(bait):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(bait["read"] + "/stream")
        return "connected"


@attack
def unix_abstract(bait):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(bait["abstract"])
        return "connected"


@attack(spec=reading)
def unix_datagram_by_a_pair(bait):
    left, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return left.sendto(b"out", bait["read"] + "/dgram")


@attack(spec=reading, control="nothing in the open that succeeds: it shows that a stream pair cannot be led elsewhere")
def unix_stream_pair_reconnected(bait):
    left, _ = socket.socketpair()
    address = struct.pack("=H", 0) + bytes(14)
    call("connect", left.fileno(), address, 2)
    left.sendto(b"out", bait["read"] + "/stream")
    return "sent"


@attack
def out_of_band(bait):
    pair = socket.socketpair()
    return pair[0].send(b"!", socket.MSG_OOB)


@attack(spec=reading)
def unix_listening_in_a_grant(bait):
    with socket.socket(socket.AF_UNIX) as sock:
        place = bait["write"] + f"/listen{os.getpid()}"
        sock.bind(place)
        sock.listen()
        os.remove(place)
        return "listening"


@attack
def ring_of_operations(bait):
    parameters = ctypes.create_string_buffer(256)
    return call("io_uring_setup", 8, parameters)


@attack(control="nothing in the open: descriptor 3 is the jail's own channel")
def send_elsewhere_through_the_channel(bait):
    channel = socket.socket(fileno=os.dup(3))
    address = struct.pack("=H", 1) + (bait["root"] + "/read/stream").encode() + b"\0"
    call("sendto", channel.fileno(), b"x", 1, 0, address, len(address))
    return "sent"


@attack
def resolve_a_name(bait):
    found = socket.getaddrinfo("localhost", 80)
    return found[0][4][0]


@attack
def socket_options_that_load_programs(bait):
    left, _ = socket.socketpair()
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0xFFFF))
    left.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HxxxxxxP", 1, ctypes.addressof(code)))
    return "attached"


test_stopped = attack.stopped()
test_control = attack.controlled()
