"""Wire cases as data: what goes in, what must come out, and the judge. No plugin is called here.

A file of tests/data/wire is `{"about": ..., "defaults": {...}, "cases": [...]}`. A case is the defaults with
its own keys over them (`env` is merged, null removes a variable):

name        unique in its file
spec        the sentence of the specification, or the behaviour clients rely on, that the case stands for
plugin      a plugin, or a list of plugins that must all behave so
env         CNI_* variables; nothing else but PATH is in the environment
stdin       the text, or `stdin_base64` the bytes, or `config` an object that is sent as JSON
expect      see judge()
known_reference_failure   why the official Go plugins 1.1.1 fail the case, if they do

`${TMP}` stands for a fresh folder, `${BIN}` for the folder of the executables. A key of `expect` that ends
in `_ours` holds for podwire alone: codes from 100 on and all texts are free by the specification.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).resolve().parents[1] / "data" / "wire"

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
ERROR_KEYS = ("cniVersion", "code", "msg", "details")
EXPECTATIONS = {
    *("status", "stdout", "stdout_ours", "stdout_go", "result", "json", "stderr", "stderr_ours"),
    *("code", "code_ours", "msg", "msg_ours", "told", "told_ours"),
}


class Case(NamedTuple):
    """One case for one plugin; `first` is false for the second and later plugins of a list."""

    id: str
    plugin: str
    first: bool
    body: dict[str, Any]

    @property
    def known_reference_failure(self) -> str:
        return str(self.body.get("known_reference_failure", ""))

    def env(self, **places: str) -> dict[str, str]:
        """The CNI variables of the case."""
        given = {key: value for key, value in self.body["env"].items() if value is not None}
        return {key: str(_placed(value, places)) for key, value in given.items()}

    def stdin(self, **places: str) -> bytes:
        """The bytes of the case's stdin."""
        if "stdin_base64" in self.body:
            return base64.b64decode(self.body["stdin_base64"])
        if "stdin" in self.body:
            return str(_placed(self.body["stdin"], places)).encode()
        return json.dumps(_placed(self.body["config"], places)).encode()

    def expect(self, **places: str) -> dict[str, Any]:
        """The expectation with its places filled in."""
        return dict(_placed(self.body["expect"], places))


def load(folder: Path = DATA) -> list[Case]:
    """Every case of every file; a malformed one is an error of the suite."""
    found = []
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text())
        names = set()
        for own in document["cases"]:
            body = _merged(document.get("defaults", {}), own)
            name = body.get("name", "?")
            assert name not in names, f"{file.name}: {name} is there twice"
            names.add(name)
            assert body.get("spec"), f"{file.name}: {name} does not say what it stands for"
            assert "status" in body["expect"] and EXPECTATIONS.issuperset(body["expect"]), f"{file.name}: {name}: expect"
            plugins = [body["plugin"]] if isinstance(body["plugin"], str) else body["plugin"]
            for number, plugin in enumerate(plugins):
                suffix = f"-{plugin}" if len(plugins) > 1 else ""
                found.append(Case(f"{file.stem}:{name}{suffix}", plugin, number == 0, body))
    return found


def judge(expect: dict[str, Any], status: int, stdout: bytes, stderr: bytes, *, whose: str, note: str = "") -> None:
    """Assert that an answer is what the case expects.

    status      exit status
    stdout      the exact text (stdout_ours: podwire's; stdout_go: podwire's and the official Go plugins')
    result      the result object; an empty dns, an empty list and no key at all are the same
    json        a part of the JSON document on stdout (objects may have more keys, lists may not)
    code        the error code that all must answer (code_ours: our choice; others may answer 100 or more)
    msg, told   regular expressions that msg, or msg and details together, must match
    stderr      a regular expression that stderr must match
    """
    out, err = (raw.decode(errors="backslashreplace") for raw in (stdout, stderr))
    shown = f"{note}\nexit {status}\nstdout: {out}\nstderr: {err}"
    assert status == expect["status"], f"expected exit {expect['status']}{shown}"
    assert b"Traceback" not in stdout, f"a traceback on stdout{shown}"
    ours = whose == "podwire"
    for key, holds in (("stdout", True), ("stdout_ours", ours), ("stdout_go", whose != "other")):
        if key in expect and holds:
            assert stdout == expect[key].encode(), f"expected stdout:\n{expect[key]}{shown}"
    if "result" in expect:
        found = json.loads(stdout)
        assert isinstance(found, dict), f"the result is no object{shown}"
        assert _filled(found) == _filled(expect["result"]), f"expected {expect['result']}{shown}"
    if "json" in expect:
        _part(expect["json"], json.loads(stdout), "$", shown)
    for key in ("stderr", "stderr_ours"):
        if key in expect and (ours or key == "stderr"):
            assert re.search(expect[key], stderr.decode(errors="replace")), f"stderr does not say {expect[key]!r}{shown}"
    if status:
        _judge_error(expect, stdout, ours, shown)


def _judge_error(expect: dict[str, Any], stdout: bytes, ours: bool, shown: str) -> None:
    try:
        error = json.loads(stdout)
    except ValueError:
        raise AssertionError(f"no JSON error object on stdout{shown}") from None
    assert isinstance(error, dict) and set(error) <= set(ERROR_KEYS), f"unexpected keys{shown}"
    assert type(error.get("code")) is int and error["code"] > 0, f"no error code{shown}"
    assert isinstance(error.get("msg"), str) and error["msg"], f"no msg{shown}"
    assert isinstance(error.get("details", ""), str), f"details is not a text{shown}"
    code = error["code"]
    if "code" in expect:
        assert code == expect["code"], f"expected code {expect['code']}{shown}"
    if "code_ours" in expect:
        assert code == expect["code_ours"] or (not ours and code >= 100), f"expected code {expect['code_ours']}{shown}"
    texts = {"msg": error["msg"], "told": f"{error['msg']}\n{error.get('details', '')}"}
    for key, text in texts.items():
        for name in (key, f"{key}_ours"):
            if name in expect and (ours or name == key):
                assert re.search(expect[name], text, re.DOTALL), f"{key} does not match {expect[name]!r}{shown}"
    if ours:
        assert error.get("cniVersion") in VERSIONS, f"no cniVersion in the error{shown}"
        assert "\n" not in error["msg"], f"msg is more than a line{shown}"
        assert stdout == as_go(error), f"not the form of the reference: 4 spaces, keys in order, no newline{shown}"


def as_go(document: dict[str, Any]) -> bytes:
    """The error object as Go's encoding/json prints it."""
    ordered = {key: document[key] for key in ERROR_KEYS if key in document}
    text = json.dumps(ordered, indent=4, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode(errors="surrogateescape")


def _filled(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if value not in ([], {}, None)}


def _part(expected: Any, found: Any, where: str, shown: str) -> None:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            assert key in found, f"{where}.{key} is missing{shown}"
            _part(value, found[key], f"{where}.{key}", shown)
    else:
        assert expected == found, f"{where}: expected {expected!r}{shown}"


def _merged(defaults: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A case over the defaults; giving stdin in one form drops the default's other forms."""
    base = dict(defaults)
    if any(key in own for key in ("stdin", "stdin_base64", "config")):
        base = {key: value for key, value in base.items() if key not in ("stdin", "stdin_base64", "config")}
    return {**base, **own, "env": {**base.get("env", {}), **own.get("env", {})}}


def _placed(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in places.items():
            value = value.replace(f"${{{name}}}", text)
        return value
    if isinstance(value, list):
        return [_placed(item, places) for item in value]
    if isinstance(value, dict):
        return {key: _placed(item, places) for key, item in value.items()}
    return value
