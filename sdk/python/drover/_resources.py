"""Values of resources. Those of secrets and credentials are objects that do not show what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _log

if TYPE_CHECKING:
    from ._client import Client


class Secret:
    """A secret value: `reveal()` gives the text, nothing else shows it."""

    def __init__(self, text: str):
        self._text = text
        _log.hide(text)

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Secret({_log.MASK})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled or copied: read it where it is needed")


class Credential:
    """A user name and a password: `credential.username`, `credential.password`, or `user, password = credential`."""

    def __init__(self, username: str, password: str):
        self.username = username
        self._password = Secret(password)

    @property
    def password(self) -> str:
        return self._password.reveal()

    def __iter__(self) -> Iterator[str]:
        return iter((self.username, self.password))

    def __repr__(self) -> str:
        return f"Credential(username={self.username!r}, password={_log.MASK})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and tuple(other) == tuple(self)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __reduce__(self) -> Any:
        raise TypeError("a credential is not pickled or copied: read it where it is needed")


def read(client: Client, name: str) -> Any:
    """The value that is meant for this robot."""
    answer = client.call("GET", ("resources", name, "value"))
    value = answer["value"]
    if answer.get("kind") == "credential":
        return Credential(value["username"], value["password"])
    if answer.get("kind") == "secret":
        return Secret(value)
    return value


def write(client: Client, name: str, value: Any) -> None:
    if isinstance(value, Credential):
        value = {"username": value.username, "password": value.password}
    elif isinstance(value, Secret):
        value = value.reveal()
    client.call("PUT", ("resources", name, "value"), {"value": value})
