"""Which backbones are ranked, and at which cuts: what a user names, checked, all faults at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgraft.errors import Fault, MissingWeightsError, ModelError, ScenarioError, listed, nearest
from fedgraft.models.catalogue import PIXELS, PLAIN, SPEAKER_ENCODER, kind_of, names
from fedgraft.models.registry import describe
from fedgraft.models.settings import BackboneSettings
from fedgraft.progress import report
from fedgraft.settings import Settings
from fedgraft.settings_files.forms import expand
from fedgraft.settings_files.load import settled
from fedgraft.settings_files.located import Place, read_yaml
from fedgraft.settings_files.shape import Block, Shape

Named = str | Sequence[str | Mapping[str, Any] | BackboneSettings]
"""Backbones as the command line has them, one text; or as Python has them."""

ALL = "all"
"""Every named cut."""

OPTION = "--backbones"


class Asked(Settings):
    """What was asked to be ranked."""

    backbones: tuple[BackboneSettings, ...]
    """Names, or blocks as the scenario's `backbone:` has them."""


@dataclass(frozen=True)
class Chosen:
    """What is to be ranked.

    Attributes:
        backbones: each with one cut, in the order in which they were named.
        missing: those whose weights are not here and can't be fetched, with the reason.
    """

    backbones: tuple[BackboneSettings, ...]
    missing: tuple[tuple[str, str], ...]


def choose(scenario: str, own: BackboneSettings, backbones: Named | None, cuts: str | Sequence[str] | None) -> Chosen:
    """Return the backbones that a user named, at the cuts that a user named.

    Args:
        scenario: its name, for faults.
        own: the scenario's backbone. Another one takes its input size, if it names none.
        backbones: None: the scenario's, and all of the table whose weights are installed.
        cuts: `all`, or names, also separated by commas; None: that of the settings.

    Raises:
        ScenarioError: unknown names, cuts that no backbone has; all at once.
        ModelError: the weights of none of them can be had.
    """
    asked = [*_installed(own)] if backbones is None else _read(scenario, backbones)
    wanted = cuts if cuts is None or cuts == ALL else _words(cuts)
    found: list[BackboneSettings] = []
    missing: list[tuple[str, str]] = []
    faults: list[Fault] = []
    seen: dict[str, tuple[str, ...]] = {}
    for number, settings in enumerate(asked):
        try:
            settings, there = _described(settings, own)
        except MissingWeightsError as error:
            missing.append((settings.name, str(error)))
        except ModelError as error:
            faults.append(Fault(f"{OPTION}[{number}]", str(error)))
        else:
            seen[settings.name] = there
            found += _at_cuts(settings, there, wanted)
    if wanted is not None and wanted != ALL and seen:
        faults += _unknown_cuts(wanted, seen)
    if faults:
        raise ScenarioError(scenario, faults)
    if not found:
        raise nothing_left(missing)
    return Chosen(tuple(dict.fromkeys(found)), tuple(missing))


def nothing_left(missing: Sequence[tuple[str, str]]) -> ModelError:
    """Return the error of a ranking from which everything was left out, with the reasons."""
    return ModelError("no backbone can be ranked:\n" + "\n".join(f"  {name}: {why}" for name, why in missing))


def _installed(own: BackboneSettings) -> Iterator[BackboneSettings]:
    """Yield the scenario's backbone and all others of the table whose weights are on this machine."""
    yield own
    if own.name == "identity":
        return
    for row in names():
        fits = kind_of(row.name) == kind_of(own.name) and row.name not in (own.name, *PLAIN.values())
        if row.installed and row.feature_dim is not None and fits:
            yield BackboneSettings(name=row.name)


def _read(scenario: str, backbones: Named) -> list[BackboneSettings]:
    """Return what was named, as settings.

    Raises:
        ScenarioError: with all faults.
    """
    text = f"[{backbones}]" if isinstance(backbones, str) else _as_json(backbones)
    place = Place(OPTION, None, Path.cwd())
    tree, faults = read_yaml(f"{{backbones: {text}}}", place, lines=False)
    if tree is not None and not faults:
        asked, faults = settled(expand(tree, Shape("", blocks=(Block(Asked),))), Asked)
        if asked is not None and asked.backbones:
            return list(asked.backbones)
    told = [Fault(f"--{fault.key}" if fault.key else OPTION, fault.message) for fault in faults]
    nothing = Fault(OPTION, "names no backbone; name some, or leave it out for those that are installed")
    raise ScenarioError(scenario, told or [nothing])


def _as_json(backbones: Sequence[str | Mapping[str, Any] | BackboneSettings]) -> str:
    """Return what Python names as text, of settings only what was set."""
    return json.dumps(
        [one.model_dump(mode="json", exclude_unset=True) if isinstance(one, Settings) else one for one in backbones],
        default=dict,
    )


def _words(cuts: str | Sequence[str]) -> tuple[str, ...]:
    words = cuts.split(",") if isinstance(cuts, str) else cuts
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _described(settings: BackboneSettings, own: BackboneSettings) -> tuple[BackboneSettings, tuple[str, ...]]:
    """Return a backbone's settings with what it takes from the scenario's, and its cuts.

    Raises:
        MissingWeightsError: its weights can't be had.
        ModelError: it is not known, or its settings don't fit it.
    """
    given = settings.model_fields_set
    if settings.name == own.name:
        settings = own.model_copy(update={name: getattr(settings, name) for name in given})
    if kind_of(settings.name) == "sounds":
        return _heard_alike(settings, own), describe(settings).cuts
    if settings.name in (own.name, PIXELS) or "input_size" in given or own.input_size is None:
        return settings, describe(settings).cuts
    sized = settings.model_copy(update={"input_size": own.input_size})
    try:
        return sized, describe(sized).cuts
    except MissingWeightsError:
        raise
    except ModelError:
        info = describe(settings)  # what is wrong with it besides the size is told
        size = info.preprocessing.input_shape[-1]
        report("note", text=f"{settings.name} can't take {own.input_size} px; it is ranked at its own {size} px")
        return settings, info.cuts


def plain_settings(name: str, own: BackboneSettings) -> BackboneSettings:
    """Return the backbone that learned nothing, for inputs such as the scenario's backbone takes."""
    plain = BackboneSettings(name=name)
    return _heard_alike(plain, own) if kind_of(name) == "sounds" else plain


def _heard_alike(settings: BackboneSettings, own: BackboneSettings) -> BackboneSettings:
    """Return a backbone of sounds with the rate and length of the scenario's, where it names none and takes any."""
    alike = {
        name: getattr(own, name)
        for name in ("sample_rate", "seconds")
        if settings.name != SPEAKER_ENCODER and name not in settings.model_fields_set and getattr(own, name) is not None
    }
    return settings.model_copy(update=alike)


def _at_cuts(
    settings: BackboneSettings, there: tuple[str, ...], wanted: str | tuple[str, ...] | None
) -> list[BackboneSettings]:
    if wanted is None:
        return [settings]
    chosen = there if wanted == ALL else tuple(cut for cut in there if cut in wanted)
    return [settings.model_copy(update={"cut": cut}) for cut in chosen]


def _unknown_cuts(wanted: str | tuple[str, ...], seen: Mapping[str, tuple[str, ...]]) -> Iterator[Fault]:
    every = tuple(dict.fromkeys(cut for there in seen.values() for cut in there))
    for cut in wanted:
        if cut not in every:
            of = "; ".join(f"{name} has {listed(there, 40)}" for name, there in seen.items())
            yield Fault("--cuts", f"no backbone has a cut '{cut}': {of}{nearest(cut, (*every, ALL))}")
