"""What the keyword functions return: lists and dicts that existing callers read either way."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any, SupportsIndex, overload


class Keywords(list[str]):
    """A list of keywords that can be read as a mapping to their addresses too.

    The vocabularies it is used for have no addresses, so every value is `""`.
    """

    def _mapping(self) -> dict[str, str]:
        return dict.fromkeys(self, "")

    def keys(self) -> KeysView[str]:
        """Return the keywords."""
        return self._mapping().keys()

    def values(self) -> ValuesView[str]:
        """Return their addresses."""
        return self._mapping().values()

    def items(self) -> ItemsView[str, str]:
        """Return the pairs of keyword and address."""
        return self._mapping().items()

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return a keyword's address, or `default` for one that is not among them."""
        return "" if keyword in self else default

    @overload
    def __getitem__(self, key: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    @overload
    def __getitem__(self, key: str) -> str: ...
    def __getitem__(self, key: SupportsIndex | slice | str) -> str | list[str]:
        """Return a keyword by its place, or the address of one by its name."""
        if isinstance(key, str):
            if key not in self:
                raise KeyError(key)
            return ""
        return super().__getitem__(key)


class LinkedKeywords(dict[str, str]):
    """Keywords and their addresses; a place in the order serves as key too, as in a list."""

    def __getitem__(self, key: Any) -> Any:
        """Return the address of a keyword by its name, or a keyword by its place."""
        if isinstance(key, (int, slice)):
            return list(self)[key]
        return super().__getitem__(key)
