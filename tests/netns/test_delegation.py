"""Section 4, plugin delegation: bridge with an IPAM plugin of somebody else, which here writes down how it was called."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import observe
from tests.netns.conftest import bridge

if TYPE_CHECKING:
    from tests.harness.plugin import Outcome
    from tests.netns.conftest import Attachment, Lab

pytestmark = pytest.mark.root

FOLDER = "/run/plugins"
ANSWER: dict[str, Any] = {"cniVersion": "1.0.0", "ips": [{"address": "10.10.0.9/24", "gateway": "10.10.0.1"}]}
LATER = pytest.mark.known_reference_failure("GC and STATUS are of specification 1.1.0, later than 1.1.1 of the plugins.")

# Writes environment and stdin of each call to numbered files; answers what /run/answer.VERB and /run/status.VERB say.
THEIRS = """#!/bin/sh
mkdir -p /run/calls
call=/run/calls/$(ls /run/calls | wc -l)
env | grep ^CNI_ | sort >$call
echo >>$call
cat >>$call
echo "theirs speaks" >&2
cat /run/answer.$CNI_COMMAND 2>/dev/null
exit $(cat /run/status.$CNI_COMMAND 2>/dev/null || echo 0)
"""


class Theirs:
    """The foreign IPAM plugin in a lab, and what it was told."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.path = f"{FOLDER}:{lab.plugins.folder}"
        self.install(FOLDER)
        self.answer("ADD", ANSWER)

    def install(self, folder: str, name: str = "theirs") -> None:
        self.lab.node.path(folder).mkdir(exist_ok=True)
        program = self.lab.node.path(f"{folder}/{name}")
        program.write_text(THEIRS)
        program.chmod(0o755)

    def answer(self, verb: str, document: Any, status: int = 0) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        self.lab.node.path(f"/run/answer.{verb}").write_text(text)
        self.lab.node.path(f"/run/status.{verb}").write_text(str(status))

    def calls(self) -> list[tuple[dict[str, str], str]]:
        """Environment and stdin of each call so far."""
        folder = self.lab.node.path("/run/calls")
        if not folder.exists():
            return []
        found = []
        for number in range(len(list(folder.iterdir()))):
            env, _, stdin = (folder / str(number)).read_text().partition("\n\n")
            found.append((dict(line.split("=", 1) for line in env.splitlines()), stdin))
        return found

    def verbs(self) -> list[str]:
        return [env["CNI_COMMAND"] for env, _ in self.calls()]


@pytest.fixture
def theirs(lab: Lab) -> Theirs:
    return Theirs(lab)


def conf(**keys: Any) -> dict[str, Any]:
    return bridge({"type": "theirs", "anything": ["else", 1.5]}, isGateway=True, keyA={"b": None}, **keys)


def called(it: Attachment, theirs: Theirs, verb: str, config: dict[str, Any], **how: Any) -> Outcome:
    return it.call(verb, config, path=theirs.path, **how)


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_same_environment_and_same_configuration(lab: Lab, theirs: Theirs, verb: str) -> None:
    """Execute that plugin with the same environment and configuration that it received, the complete configuration."""
    it = lab.attachment(conf(), args="IgnoreUnknown=1;FOO=BAR;MAC=02:00:00:00:00:07")
    result = called(it, theirs, "ADD", it.config).result()
    assert result["ips"] == [{**ANSWER["ips"][0], "interface": 2}]
    config = it.config
    if verb != "ADD":
        config = {**it.config, "prevResult": result}
        called(it, theirs, verb, config).succeeded()
    env, stdin = theirs.calls()[-1]
    assert env == {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": it.container_id,
        "CNI_NETNS": it.netns,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": it.args,
        "CNI_PATH": theirs.path,
    }
    assert json.loads(stdin) == config
    if lab.plugins.ours:
        assert stdin == json.dumps(config)


@LATER
@pytest.mark.parametrize("verb", ["STATUS", "GC"])
def test_commands_for_a_whole_network(lab: Lab, theirs: Theirs, verb: str) -> None:
    """Plugins MUST forward any GC calls to delegated plugins; STATUS must be executed on them, too."""
    config = {**conf(version="1.1.0"), "cni.dev/valid-attachments": []}
    lab.call(verb, config, path=theirs.path).succeeded()
    assert theirs.verbs() == [verb] and json.loads(theirs.calls()[0][1]) == config


ERROR = {"cniVersion": "1.0.0", "code": 123, "msg": "no luck", "details": "the pool is <dry>"}


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL"])
def test_an_error_passes_through(lab: Lab, theirs: Theirs, verb: str) -> None:
    """If any of the delegated plugins return error, error should be returned by the upper plugin: code, msg, details."""
    it = lab.attachment(conf())
    config = it.config
    if verb != "ADD":
        config = {**config, "prevResult": called(it, theirs, "ADD", config).result()}
    theirs.answer(verb, ERROR, 1)
    error = called(it, theirs, verb, config).refused(123, says="no luck")
    assert (error["code"], error["msg"], error.get("details")) == (123, "no luck", "the pool is <dry>")


@LATER
@pytest.mark.parametrize("verb", ["STATUS", "GC"])
def test_an_error_for_a_whole_network_passes_through(lab: Lab, theirs: Theirs, verb: str) -> None:
    """If the delegated plugin returns an error result, the executing plugin should return an error result."""
    theirs.answer(verb, ERROR, 1)
    config = {**conf(version="1.1.0"), "cni.dev/valid-attachments": []}
    assert "no luck" in json.dumps(lab.call(verb, config, path=theirs.path).refused(123))


LINK_STAYS = "A failed ADD leaves the pod's interface and its peer (containernetworking/plugins#29)."

ANSWERS = {
    "error": (ERROR, 1),
    "no-output": ("", 1),
    "text-as-error": ("out of cheese", 1),
    "text-as-result": ("out of cheese", 0),
    "nothing-as-result": ("", 0),
    "no-ips": ({"cniVersion": "1.0.0"}, 0),
    "a-list": ([], 0),
    "wrong-types": ({"cniVersion": "1.0.0", "ips": "10.0.0.1/24"}, 0),
    "bad-address": ({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1"}]}, 0),
    "unknown-version": ({"cniVersion": "9.9.9", "ips": [{"address": "10.0.0.1/24"}]}, 0),
}


@pytest.mark.known_reference_failure(LINK_STAYS)
@pytest.mark.parametrize("name", ANSWERS)
def test_an_add_that_ipam_fails(lab: Lab, theirs: Theirs, name: str) -> None:
    """Whatever a delegated plugin answers: an error object, nothing is left, and it is told to release what it may hold."""
    other = lab.attachment(bridge(isGateway=True))
    other.add()
    it = lab.attachment(conf())
    before = observe.snapshot(lab.node, with_files=False)
    theirs.answer("ADD", *ANSWERS[name])
    outcome = called(it, theirs, "ADD", it.config)
    assert outcome.status == 1 and outcome.json["code"] > 0 and outcome.json["msg"], outcome
    assert observe.difference(before, observe.snapshot(lab.node, with_files=False)) == []
    if name != "error":
        assert "theirs" in json.dumps(outcome.json)


NO_DEL = pytest.mark.known_reference_failure(
    '"If, on ADD, a delegated plugin fails, the upper plugin should execute again with DEL": it does not.'
)


@pytest.mark.parametrize("name", ["no-ips", *(pytest.param(name, marks=NO_DEL) for name in ("text-as-result", "wrong-types"))])
def test_what_ipam_may_hold_is_released(lab: Lab, theirs: Theirs, name: str) -> None:
    """If, on ADD, a delegated plugin fails, the upper plugin should execute again with DEL before returning failure."""
    it = lab.attachment(conf())
    theirs.answer("ADD", *ANSWERS[name])
    assert called(it, theirs, "ADD", it.config).status == 1
    assert theirs.verbs() == ["ADD", "DEL"]


@NO_DEL
@pytest.mark.parametrize("name", ["error", "no-output"])
def test_what_ipam_refused_is_released(lab: Lab, theirs: Theirs, name: str) -> None:
    """If, on ADD, a delegated plugin fails, the upper plugin should execute again with DEL before returning failure."""
    it = lab.attachment(conf())
    theirs.answer("ADD", *ANSWERS[name])
    assert called(it, theirs, "ADD", it.config).status == 1
    assert theirs.verbs() == ["ADD", "DEL"]


def test_an_address_is_released_when_a_later_step_fails(lab: Lab, theirs: Theirs) -> None:
    """A failed ADD gives the address back, with the configuration that got it."""
    theirs.answer("ADD", {**ANSWER, "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]})
    it = lab.attachment(conf())
    called(it, theirs, "ADD", it.config).refused(999, says="192.0.2.0/24")
    assert theirs.verbs() == ["ADD", "DEL"]
    assert json.loads(theirs.calls()[1][1]) == it.config


def test_the_first_error_is_the_one_that_is_told(lab: Lab, theirs: Theirs) -> None:
    """When releasing fails as well, the cause of the failure is still the message."""
    theirs.answer("ADD", {**ANSWER, "routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]})
    theirs.answer("DEL", ERROR, 1)
    it = lab.attachment(conf())
    called(it, theirs, "ADD", it.config).refused(999, says="192.0.2.0/24")


def test_stderr_is_passed_on(lab: Lab, theirs: Theirs) -> None:
    """Ensure that the delegated plugin's stderr is output to the calling plugin's stderr."""
    it = lab.attachment(conf())
    assert b"theirs speaks" in called(it, theirs, "ADD", it.config).succeeded().stderr


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_a_result_without_version_is_of_the_configurations(lab: Lab, theirs: Theirs, version: str) -> None:
    """The specification's own example of an IPAM result has no cniVersion."""
    ip = {"address": "10.10.0.9/24", **({"version": "4"} if version < "1" else {})}
    theirs.answer("ADD", {"ip4": {"ip": "10.10.0.9/24"}} if version < "0.3" else {"ips": [ip]})
    it = lab.attachment(conf(version=version))
    called(it, theirs, "ADD", it.config).result()
    assert set(observe.addresses(lab.node, "eth0", pod=it.pod)) == {"10.10.0.9/24"}


def test_the_first_folder_that_has_it(lab: Lab, theirs: Theirs) -> None:
    """Look up the plugin binary by searching the directories provided in CNI_PATH; a folder of its name is none."""
    lab.node.sh("mkdir -p /run/empty /run/folder/theirs /run/second")
    theirs.install("/run/second")
    it = lab.attachment(conf())
    path = f"/run/empty:/run/gone:/run/folder:{FOLDER}:/run/second"
    it.call("ADD", path=path).result()
    assert len(theirs.calls()) == 1


CODE_0 = pytest.mark.known_reference_failure("An executable that does not start becomes an error with code 0.")


@CODE_0
@pytest.mark.parametrize("content", ["", "not a program", "#!/no/such/interpreter\n"])
def test_a_file_that_cannot_run(lab: Lab, theirs: Theirs, content: str) -> None:
    """An executable that cannot be started is an error that names it."""
    program = lab.node.path(f"{FOLDER}/theirs")
    program.write_text(content)
    it = lab.attachment(conf())
    called(it, theirs, "ADD", it.config).refused(999, says="theirs")


@CODE_0
def test_not_executable(lab: Lab, theirs: Theirs) -> None:
    """A file without the executable bit cannot be started."""
    lab.node.path(f"{FOLDER}/theirs").chmod(0o644)
    it = lab.attachment(conf())
    called(it, theirs, "ADD", it.config).refused(999, says="theirs")


@pytest.mark.parametrize("path", [None, ""])
def test_without_cni_path(lab: Lab, path: str | None) -> None:
    """Error code 4: without CNI_PATH there is nowhere to look; the message must contain the name."""
    it = lab.attachment(conf())
    error = it.call("ADD", env={"CNI_PATH": path}).refused(4, says="CNI_PATH")
    assert error["code"] == 4


def test_l2_calls_nobody(lab: Lab, theirs: Theirs) -> None:
    """Without ipam there is no delegated plugin."""
    it = lab.attachment(bridge())
    called(it, theirs, "ADD", it.config).result()
    called(it, theirs, "DEL", it.config).succeeded()
    assert theirs.calls() == []
