"""Bad input by the thousand: whatever comes in, one error object and status 1, or what the verb promises; nothing is left.

Three ways in: ``dispatch`` in a thread (as root in a network namespace of its own), executables through pipes, and one process
in a private node that serves many calls which reach the kernel. A counterexample is printed as a call that repeats it.
"""

from __future__ import annotations

import base64
import copy
import ctypes
import json
import os
import re
import subprocess
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cni.dispatch import dispatch
from cni.plugins import bridge, loopback
from cni.spec.call import VERBS
from cni.spec.conf import Attachment, Dns
from cni.spec.result import Result, Route
from ipam import host_local, static, store
from ipam.folder import Folder
from tests.conftest import serving
from tests.harness import observe
from tests.harness.node import PATH, Node
from tests.harness.wrappers import FOLDER, ROOT, make_wrappers, python
from tests.wire.cases import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypothesis.strategies import SearchStrategy

    from tests.harness.plugin import Executables

    Serve = Callable[[str, "Env", bytes], "Answer"]

Json = dict[str, Any]
Env = dict[str, str]
Case = tuple[str, Env, bytes]

NAMES = ("bridge", "loopback", "host-local", "static")
# What stays in a folder of leases when there are none.
STAYS = re.compile(r"/(lock|last_reserved_ip\.\d+)$")
CLONE_NEWNET = 0x40000000
FEW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
EXAMPLES = settings().max_examples
QUICK = settings(max_examples=10 * EXAMPLES, deadline=None, suppress_health_check=FEW)


class Answer(NamedTuple):
    """What a call gave back."""

    status: int
    stdout: bytes
    stderr: bytes


# -- what goes in --

# Tokens that json.dumps cannot write; each stands in a document as the text of its key.
TOKENS = {
    "@nested": "[" * 300 + "]" * 300,
    "@nested to the limit": "[" * 980 + "]" * 980,
    "@nested objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "@number": "-" + "7" * 4200,
    "@long number": "9" * 5000,
    "@huge": "1e999",
    "@nan": "NaN",
    "@surrogate": '"\\ud800"',
    "@nothing": "",
    "@twice": '{"type": "x", "type": 1}',
}
ODD = "\0|a\nb|\r\n|\x1b[31mred|\x9b31m|\x7f|\u2028|\u202e|\ud800|é|..|/|../../etc||-1|1e9|::ffff:10.0.0.1|fe80::1%eth0|all|lo"
NASTY = (*ODD.split("|"), "x" * 5000, "1" * 5000, "10.1.0.0/" + "0" * 5000 + "8", *TOKENS)
TEXT = st.sampled_from(NASTY) | st.text(st.characters(), max_size=20)
NUMBERS = st.sampled_from((0, -1, 68, 4095, 2**16, 2**31, 2**32, 2**63, 2**64, 10**30)) | st.integers()
VALUES: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

# Values of keys by their type and, where there are better ones, by their name.
IPS = ["10.1.0.1", "10.1.0.9", "fd00:1::1", "fd00:1::9", "198.51.100.7", "0.0.0.0", "::", "ff02::1", "127.0.0.1"]
V4_CIDRS = [
    "10.1.0.0/24",
    "10.1.0.5/24",
    "10.1.0.7/31",
    "10.1.0.1/32",
    "0.0.0.0/0",
    "192.0.2.0/24",
    "127.0.0.1/8",
    "224.0.0.1/24",
]
V6_CIDRS = ["fd00:1::/64", "fd00:1::5/64", "fd00:1::1/128", "::/0", "fe80::1/64"]
MACS = ["02:00:00:00:00:07", "02-00-00-00-00-08", "ff:ff:ff:ff:ff:ff"]
BY_CLASS = {"Ip": IPS, "Cidr": V4_CIDRS + V6_CIDRS, "Mac": MACS}
BY_NAME: dict[str, list[Any]] = {
    "subnet": ["10.1.0.0/24", "10.2.0.0/29", "fd00:1::/64", "10.1.0.0/30", "fd00::/8", "0.0.0.0/0"],
    "dataDir": ["${TMP}/leases"],
    "bridge": ["cni0", "br0", "there"],
    "ipMasqBackend": ["nftables", "iptables", ""],
    "resolvConf": ["/etc/hosts", "/nowhere", "/dev/null", "", "/nowhere\nat all"],
    "mtu": [0, 0, 68, 1280, 1400, 1500, 65535, 70000],
    "vlan": [0, 0, 0, 5, 4094],
    "enabledad": [False],
    "table": [None, 0, 100, 254, 2**32 - 1, 2**32, -1],
    "scope": [None, 0, 253, 255, 256, -1],
    "priority": [0, 100, 2**31, 2**32, -1],
    "advmss": [0, 1000, 2**32, -1],
    "ips": [["10.1.0.7"], ["10.1.0.7/24", "fd00:1::7/64"], [], ["a\nb"]],
    "containerID": ["c0ffee", "other"],
    "ifname": ["eth0", "eth1"],
}


def of(kind: Any, name: str = "") -> SearchStrategy[Any]:
    """Values that a record accepts, or nearly: by the key's name where it has a table, else by its type."""
    known = msgspec.inspect
    if isinstance(kind, known.Metadata):
        return of(kind.type, name)
    inner = getattr(kind, "item_type", kind)
    if name in BY_NAME and not isinstance(inner, known.StructType):
        return st.sampled_from(BY_NAME[name])
    if isinstance(kind, known.UnionType):
        return st.one_of([of(one) for one in kind.types])
    if isinstance(kind, known.StructType):
        return record(kind.cls)
    if isinstance(kind, (known.VarTupleType, known.ListType)):
        return st.lists(of(kind.item_type), max_size=2)
    if isinstance(kind, known.CustomType):
        return st.sampled_from(BY_CLASS[kind.cls.__name__])
    if isinstance(kind, known.StrType):
        return st.sampled_from(("", "a", "b.example", "10.1.0.1"))
    if isinstance(kind, known.BoolType):
        return st.booleans()
    return st.integers(0, 5000) if isinstance(kind, known.IntType) else st.none()


def record(cls: type[msgspec.Struct], most: int = 6, **more: SearchStrategy[Any]) -> SearchStrategy[Json]:
    """Objects with all of a record's required keys and some of the others."""
    fields = msgspec.inspect.type_info(cls).fields  # type: ignore[attr-defined]
    keys = {field.encode_name: of(field.type, field.encode_name) for field in fields} | more
    needed = {field.encode_name for field in fields if field.required}
    some = st.sets(st.sampled_from(sorted(keys)), max_size=most)
    return some.flatmap(lambda chosen: st.fixed_dictionaries({key: keys[key] for key in sorted(chosen | needed)}))


POOLS: list[Json] = [
    {"type": "host-local", "subnet": "10.1.0.0/24"},
    {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", "gateway": "10.9.0.1"}], [{"subnet": "fd00:1::/64"}]]},
    {"type": "host-local", "subnet": "fd00:1::/64", "gateway": "10.1.0.1"},
    {"type": "static", "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00:1::5/64"}]},
    {"type": "static", "addresses": [{"address": "10.1.0.5/32"}, {"address": "10.1.0.6/24", "gateway": "fd00:1::1"}]},
    *[{"type": "static", "addresses": [{"address": cidr}]} for cidr in BY_CLASS["Cidr"]],
]
MORE = st.fixed_dictionaries({}, optional={"routes": st.lists(record(Route, 3), max_size=2), "dns": record(Dns)})
SOUND = st.builds(lambda pool, more: {**pool, **more}, st.sampled_from(POOLS), MORE)
RECORDS: dict[str, type[msgspec.Struct]] = {
    "bridge": bridge.Conf,
    "loopback": loopback.Conf,
    "host-local": host_local.Document,
    "static": static.Document,
}
IPAM = {"host-local": SOUND | record(host_local.Ipam), "static": SOUND | record(static.Ipam)}
VALID = "cni.dev/valid-attachments"


def documents(plugin: str, most: int = 6) -> SearchStrategy[Json]:
    """Configurations of a plugin, most of them valid."""
    common = {"prevResult": record(Result), VALID: st.lists(record(Attachment), max_size=2)}
    head = {"cniVersion": st.sampled_from(("1.1.0",) * 7 + VERSIONS), "name": st.just("net"), "type": st.just(plugin)}
    if plugin != "loopback":
        head["ipam"] = IPAM.get(plugin, SOUND)
    body = record(RECORDS[plugin], most, **common)
    return st.builds(lambda body, head: {**body, **head}, body, st.fixed_dictionaries(head))


@st.composite
def mutated(draw: st.DrawFn, whole: SearchStrategy[Json]) -> Json:
    """A document with an arbitrary value, an arbitrary key or a key in another case in one or two places."""
    document = copy.deepcopy(draw(whole))
    for _ in range(draw(st.integers(0, 2))):
        there = draw(st.sampled_from(list(objects(document))))
        key = draw(st.sampled_from(sorted(there)) if there else TEXT)
        there[draw(st.sampled_from((key, key, key.swapcase())) | TEXT)] = draw(st.sampled_from(NASTY) | VALUES)
    return document


def objects(value: Any) -> Iterator[Json]:
    """Every object of a document, the outermost first."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


def written(document: Any) -> bytes:
    """A document as bytes, its tokens put in."""
    text = json.dumps(document)
    for name, token in TOKENS.items():
        text = text.replace(json.dumps(name), token)
    return text.encode()


@st.composite
def damaged(draw: st.DrawFn, whole: SearchStrategy[bytes]) -> bytes:
    """Bytes with one to three of them flipped, cut out or put in."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


OS_TEXT = (st.sampled_from(NASTY).map(lambda text: text.encode(errors="replace")) | st.binary(max_size=20)).map(
    lambda raw: os.fsdecode(raw.replace(b"\0", b""))
)
ARGS = ["", "IP=10.1.0.7", "IgnoreUnknown=1;K8S=x", "IP=10.1.0.7/24;GATEWAY=10.1.0.1", "MAC=x", "IP=a\nb"]
GOOD: dict[str, SearchStrategy[str]] = {
    "CNI_COMMAND": st.sampled_from((*VERBS, "ADD", "DEL")),
    "CNI_CONTAINERID": st.sampled_from(("c0ffee", "other", "x" * 300)),
    "CNI_IFNAME": st.sampled_from(("eth0", "eth1", "é", "\x1b[31m")),
    "CNI_NETNS": st.sampled_from(("/proc/thread-self/ns/net", "/run/netns/none", "/dev/null", "/etc/hostname/x", "relative")),
    "CNI_ARGS": st.sampled_from(ARGS),
    "CNI_PATH": st.sampled_from((str(FOLDER), str(FOLDER), f"/nowhere:{FOLDER}", ":", "/nowhere")),
}
USUAL = st.fixed_dictionaries(GOOD)
UNKNOWN = st.dictionaries(st.text("ABC_é", min_size=1, max_size=5), OS_TEXT, max_size=1)


@st.composite
def environments(draw: st.DrawFn) -> Env:
    """The variables of a call, some of them missing, some anything, and one that nobody knows."""
    odd = draw(st.dictionaries(st.sampled_from(sorted(GOOD)), st.none() | OS_TEXT, max_size=2))
    return {key: value for key, value in {**draw(UNKNOWN), **draw(USUAL), **odd}.items() if value is not None}


def near(plugin: str) -> SearchStrategy[bytes]:
    return mutated(documents(plugin)).map(written)


def junk(_: str) -> SearchStrategy[bytes]:
    return VALUES.map(written) | st.binary(max_size=200)


def cases(stdin: Callable[[str], SearchStrategy[bytes]], env: SearchStrategy[Env]) -> SearchStrategy[Case]:
    """Calls of every plugin."""
    return st.sampled_from(NAMES).flatmap(lambda plugin: st.tuples(st.just(plugin), env, stdin(plugin)))


def call(verb: str, **more: str) -> Env:
    """A sound environment."""
    usual = {"CNI_CONTAINERID": "c0ffee", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/none", "CNI_PATH": str(FOLDER)}
    return {"CNI_COMMAND": verb, **usual, **more}


def net(**keys: Any) -> bytes:
    """A sound configuration but for these keys."""
    return written({"cniVersion": "1.1.0", "name": "net", "type": "x", **keys})


# -- what must come out --

RESULT_KEYS = {"cniVersion", "ip4", "ip6", "interfaces", "ips", "routes", "dns"}


def judge(plugin: str, env: Env, answer: Answer, *, ours: bool = True) -> Json | None:
    """Assert all that every answer must be; the document of stdout."""
    shown, verb = f"\n{plugin} {env!r}\n{answer!r}", env.get("CNI_COMMAND")
    found = json.loads(answer.stdout.decode()) if answer.stdout else None
    assert found is None or isinstance(found, dict), f"no JSON object{shown}"
    if answer.status:
        assert found is not None and type(found.get("code")) is int and found["code"] >= 1, f"no error object{shown}"
        assert isinstance(found.get("msg"), str) and found["msg"], f"no msg{shown}"
        assert isinstance(found.get("details", ""), str), f"details{shown}"
    else:
        assert (found is None) is (verb not in ("ADD", "VERSION")), f"not what the verb promises{shown}"
    if not ours:
        return found
    assert answer.status in (0, 1), f"exit status{shown}"
    assert all(byte >= 0x20 or byte == 0x0A for byte in answer.stdout), f"control characters on stdout{shown}"
    remarks = answer.stderr.decode(errors="surrogateescape")
    assert "Traceback" not in remarks, f"a trace\n{remarks}"
    if found is not None and answer.status:
        assert set(found) <= {"cniVersion", "code", "msg", "details"} and found["cniVersion"] in VERSIONS, f"keys{shown}"
        assert not found["msg"].startswith("internal error"), f"a mistake of ours{shown}"
        assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in found["msg"]), f"not a line{shown}"
    elif found is not None and verb == "VERSION":
        assert isinstance(found["cniVersion"], str) and found["supportedVersions"] == list(VERSIONS), f"no version{shown}"
    elif found is not None:
        assert set(found) <= RESULT_KEYS and found["cniVersion"] in VERSIONS, f"no result{shown}"
    return found


# -- in process --


class Fenced(Folder):
    """A lease folder that opens only below the test's own: a dataDir may be anything."""

    fence = ""

    def __enter__(self) -> Folder:
        if not os.path.normpath(self.path).startswith(self.fence + "/"):
            raise PermissionError(1, "outside of the test's folder", self.path)
        return super().__enter__()


def links() -> list[str]:
    """The links of the calling thread's namespace as another program sees them."""
    told = subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True, env={"PATH": PATH}).stdout
    return [f"{link['ifname']} {link['flags']} {link['addr_info']}" for link in json.loads(told)]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """``dispatch`` in a thread, as root in an empty network namespace; leases are kept in a folder of the test."""
    top = tmp_path_factory.mktemp("fuzz")
    make_wrappers()

    def alone() -> None:
        if os.geteuid() == 0:
            assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def left() -> list[str]:
        return [str(file) for file in top.rglob("*") if not file.is_dir() and not STAYS.search(str(file))]

    def served(plugin: str, env: Env, stdin: bytes) -> Answer:
        stdin = stdin.replace(b"${TMP}", str(top).encode())
        reply = thread.submit(dispatch, plugin, env, stdin).result()
        answer = Answer(reply.status, reply.stdout, reply.stderr.encode(errors="surrogateescape"))
        judge(plugin, env, answer)
        if env.get("CNI_COMMAND"):
            assert all(line.startswith(f"{plugin}: ") for line in reply.stderr.splitlines()), f"a remark is not a line: {reply}"
        if env.get("CNI_COMMAND") == "ADD" and not answer.status:
            assert plugin in ("host-local", "static"), f"an ADD without a sandbox\n{answer}"
            gone = thread.submit(dispatch, plugin, {**env, "CNI_COMMAND": "DEL"}, stdin).result()
            assert gone.status == 0, gone
        assert left() == [], f"{plugin} {env}\n{answer}"
        return answer

    with ThreadPoolExecutor(1, initializer=alone) as thread, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fenced, "fence", str(top))
        patch.setattr(store, "Folder", Fenced)
        patch.setattr(host_local, "DATA_DIR", str(top / "default"))
        before = links(), thread.submit(links).result()
        yield served
        assert (links(), thread.submit(links).result()) == before


ONE = {"type": "static", "addresses": [{"address": "10.1.0.5/24"}]}
V4 = {"subnet": "10.1.0.0/24"}


@QUICK
@given(case=cases(junk, USUAL | environments()))
@example(case=("bridge", call("VERSION"), b'{"cniVersion": "\\ud800"}'))
def test_any_bytes(serve: Serve, case: Case) -> None:
    """stdin is no configuration at all."""
    serve(*case)


@QUICK
@given(case=cases(near, USUAL))
@example(case=("bridge", call("CHECK"), net(cniVersion="1" * 5000)))
@example(case=("bridge", call("STATUS"), net(ipam={"type": "@surrogate"})))
@example(case=("bridge", call("STATUS"), net(mtu="@surrogate")))
@example(case=("bridge", call("GC"), net(**{VALID: [{"containerID": "@surrogate", "ifname": "eth0"}]})))
@example(case=("static", call("ADD"), net(ipam={**ONE, "dns": {"domain": "@surrogate"}})))
@example(case=("static", call("ADD"), net(ipam={**ONE, "routes": [{"dst": "0.0.0.0/0", "mtu": 10**30}]})))
@example(case=("static", call("ADD"), net(ipam=ONE, runtimeConfig={"ips": ["a\nb"]})))
@example(case=("host-local", call("STATUS"), net(ipam=V4, args={"cni": {"ips": ["1\x1b[31m"]}})))
@example(case=("host-local", call("ADD"), net(ipam={**V4, "resolvConf": "/nowhere\nat all"})))
@example(case=("host-local", call("ADD"), net(ipam={**V4, "dataDir": "/dev/null/\n"})))
@example(case=("loopback", call("ADD"), net(prevResult={"cniVersion": "@nested to the limit"})))
def test_nearly_valid_configurations(serve: Serve, case: Case) -> None:
    """Keys that plugins read, with values of any type and size."""
    serve(*case)


@QUICK
@given(case=cases(lambda plugin: damaged(near(plugin)), USUAL))
def test_damaged_configurations(serve: Serve, case: Case) -> None:
    """A few bytes of a configuration are not what they should be."""
    serve(*case)


@QUICK
@given(case=cases(lambda plugin: documents(plugin).map(written), environments()))
@example(case=("bridge", call("STATUS", CNI_IFNAME="\udcff"), net()))
@example(case=("static", call("ADD", CNI_ARGS="IP=a\nb"), net(ipam=ONE)))
@example(case=("static", call("CHECK", CNI_IFNAME="\x1b[31m"), net(ipam=ONE, prevResult={})))
def test_any_environment(serve: Serve, case: Case) -> None:
    """Variables are missing, wrong or strange."""
    serve(*case)


# -- through pipes --


@pytest.fixture(scope="module")
def place(plugins: Executables, pytestconfig: pytest.Config) -> Iterator[Node | None]:
    """Where executables run: as root in a node, in which nothing may have changed at the end."""
    before = links()
    if os.geteuid():
        yield None
    else:
        with Node() as node, serving(pytestconfig, node):
            seen = observe.snapshot(node, with_files=False)
            yield node
            assert not plugins.ours or observe.difference(seen, observe.snapshot(node, with_files=False)) == []
    assert links() == before


@settings(QUICK, max_examples=EXAMPLES)
@given(case=cases(lambda plugin: near(plugin) | near(plugin) | damaged(near(plugin)) | junk(plugin), USUAL | environments()))
def test_executables(plugins: Executables, place: Node | None, case: Case) -> None:
    """Spec section 5, "Error": "Plugins must exit with a nonzero return code on error and output a JSON result structure"."""
    plugin, env, stdin = case
    env = {"PATH": PATH, **env, "CNI_PATH": env.get("CNI_PATH", "").replace(str(FOLDER), str(plugins.folder))}
    stdin = stdin.replace(b"${TMP}/leases", b"")
    done = plugins.execute(plugin, env, stdin, node=place)
    judge(plugin, env, Answer(done.status, done.stdout, done.stderr), ours=plugins.ours)
    if plugins.ours and place:
        if env.get("CNI_COMMAND") == "ADD" and not done.status:
            plugins.execute(plugin, {**env, "CNI_COMMAND": "DEL"}, stdin, node=place).succeeded()
        assert os.listdir(place.path("/sys/class/net")) == ["lo"], done
        assert leases(place) == [], done


def leases(node: Node) -> list[str]:
    """The leases of a node, in whatever network's folder."""
    found = observe.files(node, "/var/lib/cni")
    return [path for path, content in found.items() if isinstance(content, bytes) and not STAYS.search(path)]


# -- on the kernel --

# What libraries write to stderr by themselves counts as well.
DRIVER = """
import base64, json, os, sys
from cni.dispatch import dispatch
said = os.memfd_create("stderr")
os.dup2(said, 2)
for line in sys.stdin:
    plugin, env, stdin = json.loads(line)
    reply = dispatch(plugin, env, base64.b64decode(stdin))
    remarks = os.pread(said, 1 << 20, 0).decode(errors="replace") + reply.stderr
    os.ftruncate(said, 0)
    os.lseek(said, 0, os.SEEK_SET)
    print(json.dumps([reply.status, reply.stdout.decode(errors="surrogateescape"), remarks]), flush=True)
"""

CLEAN = """
for link in /sys/class/net/*; do [ "$link" = /sys/class/net/lo ] || ip link del dev "${link##*/}" 2>/dev/null || :; done
nft flush ruleset
echo 0 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
rm -rf /var/lib/cni/networks
ip netns del pod
ip netns add pod
"""
BRIDGE = "ip link add cni0 index 50 address 02:00:00:00:00:50 type bridge"
SETUPS = (
    *[""] * 3,
    f"{BRIDGE}\nip addr add 10.1.0.77/24 dev cni0\nip addr add fd00:1::77/64 dev cni0 nodad\nip link set cni0 up",
    f"{BRIDGE}\nip link add there index 51 type veth peer name else0 index 52",
    "ip -n pod link add eth0 type bridge",
)


class Kernel:
    """A node with a pod in which one process serves calls."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.netns = node.pod("pod")
        self._served = node.spawn(python(), "-c", DRIVER, env={"PATH": PATH, "PYTHONPATH": str(ROOT)})

    def call(self, plugin: str, verb: str, stdin: bytes, **more: str) -> tuple[Answer, Json | None]:
        env = call(verb, CNI_NETNS=self.netns, PATH=PATH, **more)
        pipes = self._served.stdin, self._served.stdout
        assert pipes[0] and pipes[1]
        pipes[0].write(json.dumps([plugin, env, base64.b64encode(stdin).decode()]).encode() + b"\n")
        status, told, remarks = json.loads(pipes[1].readline())
        answer = Answer(status, told.encode(errors="surrogateescape"), remarks.encode(errors="surrogateescape"))
        return answer, judge(plugin, env, answer)

    def seen(self) -> Json:
        return observe.snapshot(self.node, with_files=False) | {"leases": leases(self.node)}


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    make_wrappers()
    with Node() as node:
        yield Kernel(node)


def bridged(**keys: Any) -> Json:
    return {"cniVersion": "1.1.0", "name": "net", "type": "bridge", **keys}


def routed(**keys: Any) -> Json:
    return bridged(ipam={**ONE, "routes": [{"dst": "192.0.2.0/24", **keys}]})


OTHER_FAMILY = {"type": "host-local", "subnet": "fd00:1::/64", "gateway": "10.1.0.1"}


@pytest.mark.root
@settings(QUICK, max_examples=EXAMPLES * 3 // 2)
@given(
    document=documents("bridge", 5) | mutated(documents("bridge", 5)) | documents("loopback"),
    setup=st.sampled_from(SETUPS),
    args=st.sampled_from(("", "", "MAC=02:00:00:00:00:09")),
)
@example(document=routed(gw="fd00:1::1"), setup="", args="")
@example(document=routed(advmss=-1), setup="", args="")
@example(document=routed(priority=2**32), setup="", args="")
@example(document=routed(table=2**32), setup="", args="")
@example(document=routed(table=-1), setup="", args="")
@example(document=routed(scope=256), setup="", args="")
@example(document=bridged(ipam=OTHER_FAMILY, isGateway=True), setup="", args="")
@example(document=bridged(ipam={**OTHER_FAMILY, "routes": [{"dst": "fd00:2::/64"}]}), setup="", args="")
@example(document=bridged(ipam={"type": "static", "addresses": [{"address": "0.0.0.0/0"}]}), setup="", args="")
@example(document=bridged(ipam=ONE, dns={"domain": "@surrogate"}), setup="", args="")
@example(document={**bridged(prevResult={"dns": {"domain": "@surrogate"}}), "type": "loopback"}, setup="", args="")
def test_add_all_or_nothing(kernel: Kernel, document: Json, setup: str, args: str) -> None:
    """A failed ADD leaves the node as it was; after a successful one CHECK agrees and DEL leaves nothing of the attachment."""
    plugin = "bridge" if document.get("type") == "bridge" else "loopback"
    kernel.node.sh(CLEAN + setup)
    before = kernel.seen()
    stdin = written(document).replace(b"${TMP}/leases", b"")
    answer, result = kernel.call(plugin, "ADD", stdin, CNI_ARGS=args)
    if answer.status:
        assert observe.difference(before, kernel.seen()) == [], f"{answer}"
        return
    if result and result["cniVersion"] >= "0.4.0":
        stdin = written({**document, "prevResult": result}).replace(b"${TMP}/leases", b"")
        checked, _ = kernel.call(plugin, "CHECK", stdin, CNI_ARGS=args)
        assert checked.status == 0, f"{checked}\n{answer}"
    deleted, _ = kernel.call(plugin, "DEL", stdin, CNI_ARGS=args)
    assert deleted.status == 0, deleted
    after = kernel.seen()
    assert after["leases"] == [] and observe.mentions(kernel.node, "c0ffee") == []
    assert set(after["pod links"]) == set(before["pod links"])
    assert not [
        name for name, link in after["node links"].items() if link["kind"] == "veth" and name not in before["node links"]
    ]
