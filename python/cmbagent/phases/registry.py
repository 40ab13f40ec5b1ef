"""The phase types a workflow may name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from cmbagent import _core
from cmbagent.errors import ConfigurationError
from cmbagent.phases.base import Phase, PhaseConfig

PhaseClass = TypeVar("PhaseClass", bound=type[Phase])


class PhaseRegistry:
    """Maps phase types to classes, for the whole process, in the order of registration."""

    _registry: ClassVar[_core.Registry] = _core.Registry()

    @classmethod
    def register(cls, phase_type: str) -> Callable[[PhaseClass], PhaseClass]:
        """Return a class decorator that registers the class; a later registration replaces an earlier one.

        Args:
            phase_type: the type under which workflows name the phase.
        """

        def decorate(phase_class: PhaseClass) -> PhaseClass:
            cls._registry.register(phase_type, phase_class)
            return phase_class

        return decorate

    @classmethod
    def register_class(cls, phase_type: str, phase_class: type[Phase]) -> None:
        """Register a class; a later registration replaces an earlier one.

        Args:
            phase_type: the type under which workflows name the phase.
            phase_class: the class.
        """
        cls._registry.register(phase_type, phase_class)

    @classmethod
    def get(cls, phase_type: str) -> type[Phase]:
        """Return the class of a type.

        Args:
            phase_type: a registered type.

        Raises:
            ValueError: the type is not registered; the text lists those that are.
        """
        return cls._registry.get(phase_type)

    @classmethod
    def create(cls, phase_type: str, config: Any = None, **kwargs: Any) -> Phase:
        """Build a phase.

        Args:
            phase_type: a registered type.
            config: the phase's config; `None` uses the default.
            **kwargs: passed on to the class.

        Returns:
            The phase.

        Raises:
            ValueError: the type is not registered.
        """
        phase_class = cls.get(phase_type)
        return phase_class(**kwargs) if config is None else phase_class(config=config, **kwargs)

    @classmethod
    def create_from_dict(cls, phase_def: dict[str, Any]) -> Phase:
        """Build a phase from its definition in a workflow.

        Args:
            phase_def: `type`, and optionally `config` with fields of the phase's config; other keys are
                left alone.

        Returns:
            The phase.

        Raises:
            ValueError: `type` is missing or not registered.
            TypeError: `config` is no mapping or has a field that the phase does not know.
        """
        phase_type = phase_def.get("type")
        if not phase_type:
            raise ConfigurationError("Phase definition must include 'type' key")
        phase_class = cls.get(phase_type)
        settings = phase_def.get("config", {})
        if phase_class.config_class is not None:
            return phase_class(config=_config(phase_class.config_class, settings))
        return phase_class(config=PhaseConfig(phase_type=phase_type, **settings))

    @classmethod
    def list_all(cls) -> list[str]:
        """Return the registered types in the order of registration."""
        return cls._registry.list_all()

    @classmethod
    def get_info(cls, phase_type: str) -> dict[str, Any]:
        """Describe a type: `type`, `display_name` and `required_agents` of a phase with default settings.

        Args:
            phase_type: a registered type.

        Raises:
            ValueError: the type is not registered.
        """
        phase = cls.create(phase_type)
        return {
            "type": phase_type,
            "display_name": phase.display_name,
            "required_agents": phase.get_required_agents(),
        }

    @classmethod
    def list_all_info(cls) -> list[dict[str, Any]]:
        """Describe every registered type."""
        return [cls.get_info(phase_type) for phase_type in cls.list_all()]

    @classmethod
    def is_registered(cls, phase_type: str) -> bool:
        """Return whether a type is registered.

        Args:
            phase_type: any text.
        """
        return cls._registry.is_registered(phase_type)

    @classmethod
    def clear(cls) -> None:
        """Forget all types, the built-in ones too."""
        cls._registry.clear()


def _config(config_class: type[PhaseConfig], settings: Mapping[str, Any]) -> PhaseConfig:
    try:
        return config_class(**settings)
    except TypeError as error:
        known = {field.name for field in dataclasses.fields(config_class)}
        for name in settings:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) if name not in known else []
            if near and repr(name) in str(error):
                raise TypeError(f"{error}. Did you mean {near[0]!r}?") from None
        raise
