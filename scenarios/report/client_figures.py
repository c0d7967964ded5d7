"""Client by client: scores as a heat map, and who gains and who is harmed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scenarios.comparison.client_findings import ClientRow, Gain, Trait, Transfer
from scenarios.comparison.findings import Analysis, Condition
from scenarios.report.contenders import Looks, dot_of, leader
from scenarios.report.contents import Cell, Column, Row, Table, Topic
from scenarios.report.plots import Axis, Bars, Dots, Figure, Heat
from scenarios.report.wording import NOTHING, count, sentence_case, share
from scenarios.report.wording import percent as in_percent

MOST_ROWS = 60
"""Clients up to which each has a row of the heat map; more are grouped."""
MOST_COLUMNS = 12
"""Contenders up to which each has a column; of more, those that stand out in all figures."""
GROUPS = 40
"""Rows of the heat map when clients are grouped."""
MOST_BARS = 200
"""Clients up to which each has a bar; more are grouped by their gain."""

TRAITS = {"num_train": "samples", "label_skew": "label skew", "distance": "distance"}
"""Of clients, as short as an axis has room for; the caption has the whole words."""

AGAINST = {
    "global-against-own": "the federation's head against each client's own",
    "personal-against-own": "personal heads against each client's own",
    "personal-against-global": "personal heads against the federation's",
}


def clients_topic(analysis: Analysis, condition: Condition, looks: Looks, part: str) -> Topic | None:
    """Return the scores of all clients; None where runs kept none."""
    if not condition.clients:
        return None
    names = [name for name in analysis.contenders if any(name in row.scores for row in condition.clients)]
    left_out = [name for name in names if looks.styles[name] is None] if len(names) > MOST_COLUMNS else []
    names = [name for name in names if name not in left_out]
    same = condition.transfer is not None and condition.transfer.same_clients
    rows, said = _client_rows(condition.clients, same)
    labels, values, row_label = _grouped(rows, names)
    good = "squared error" if analysis.task == "real" else "share of right answers"
    plot = Heat(
        tuple(labels),
        tuple(looks.titles[name] for name in names),
        values,
        label=good,
        row_label=row_label,
        percent=analysis.task != "real",
    )
    figure = Figure(
        key=f"client-scores{part}",
        title="Score of each client",
        caption=f"{said} Each on its own validation samples, of the head that it would use. {_order(rows)}"
        + (f" {len(left_out)} other contenders: see tables/clients.csv." if left_out else ""),
        alternative=_spread(names, looks, rows, analysis.task != "real"),
        plot=plot,
        wide=True,
    )
    figures = [figure, *_gain_figures(analysis, condition, part)]
    transfer = condition.transfer
    text = tuple(transfer.notes) if transfer is not None else ()
    said_of = _main_transfers(analysis, condition)
    text += tuple(sentence for found in said_of for sentence in found.verdict)
    percent = analysis.task != "real"
    table = _transfer_table(transfer.transfers, looks, percent) if transfer is not None and transfer.transfers else None
    return Topic("Clients: who gains, who is harmed", text, tuple(figures), table=table)


def _client_rows(clients: Sequence[ClientRow], same: bool) -> tuple[list[ClientRow], str]:
    """Return one row a client: means over seeds where a name means the same samples in each, else one seed's."""
    seeds = sorted({row.seed for row in clients})
    if not same or len(seeds) == 1:
        return [row for row in clients if row.seed == seeds[0]], (
            f"The split of seed {seeds[0]}; other seeds divide the samples otherwise." if len(seeds) > 1 else ""
        )
    by_name: dict[str, list[ClientRow]] = {}
    for row in clients:
        by_name.setdefault(row.client, []).append(row)
    return [_averaged(rows) for rows in by_name.values()], f"Means over {count(len(seeds), 'seed')}."


def _averaged(rows: Sequence[ClientRow]) -> ClientRow:
    first = rows[0]
    scores = {
        name: float(np.mean([row.scores[name] for row in rows if name in row.scores]))
        for name in dict.fromkeys(name for row in rows for name in row.scores)
    }
    return ClientRow(
        first.client,
        first.seed,
        first.num_train,
        first.num_validation,
        first.label_skew,
        first.distance,
        scores,
        first.global_scores,
    )


def _order(rows: Sequence[ClientRow]) -> str:
    return "The most skewed labels stand on top." if _skewed(rows) else "The largest clients stand on top."


def _skewed(rows: Sequence[ClientRow]) -> bool:
    return all(row.label_skew is not None for row in rows)


def _grouped(rows: Sequence[ClientRow], names: Sequence[str]) -> tuple[list[str], NDArray[np.float64], str]:
    """Return row names, scores `(num_rows, num_contenders)` and what a row is; many clients share rows."""
    if _skewed(rows):
        ordered = sorted(rows, key=lambda row: -(row.label_skew or 0.0))
    else:
        ordered = sorted(rows, key=lambda row: -row.num_validation)
    scores = np.array([[row.scores.get(name, np.nan) for name in names] for row in ordered], dtype=np.float64)
    if len(ordered) <= MOST_ROWS:
        return [row.client for row in ordered], scores, "client"
    labels, means = [], []
    for places in np.array_split(np.arange(len(ordered)), GROUPS):
        group = [ordered[place] for place in places]
        if _skewed(rows):
            labels.append(f"skew {group[-1].label_skew:.2f} to {group[0].label_skew:.2f}")
        else:
            labels.append(f"{group[-1].num_validation:,} to {group[0].num_validation:,} samples")
        means.append(_column_means(scores[places]))
    return labels, np.array(means), f"groups of about {len(ordered) // GROUPS:,} clients"


def _column_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis=0)
    counts = known.sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _spread(names: Sequence[str], looks: Looks, rows: Sequence[ClientRow], percent: bool) -> str:
    """Say each contender's worst, middle and best client."""
    said = []
    for name in names[:12]:
        scores = [row.scores[name] for row in rows if name in row.scores]
        low, middle, high = np.quantile(scores, (0, 0.5, 1))
        numbers = [in_percent(value) if percent else f"{value:.3g}" for value in (low, middle, high)]
        said.append(f"{looks.titles[name]}: from {numbers[0]} to {numbers[2]}, median {numbers[1]}")
    return f"Scores of {count(len(rows), 'client')}. {'; '.join(said)}."


def _main_transfers(analysis: Analysis, condition: Condition) -> list[Transfer]:
    """Return, of each kind, the transfer of the leading contender, or of the first that has one."""
    if condition.transfer is None:
        return []
    best = leader(condition, analysis.metric.higher_is_better)
    chosen: dict[str, Transfer] = {}
    for found in condition.transfer.transfers:
        if found.clients and (found.kind not in chosen or (best is not None and found.contender == best.contender)):
            chosen[found.kind] = found
    return list(chosen.values())


def _gain_figures(analysis: Analysis, condition: Condition, part: str) -> list[Figure]:
    figures = []
    for found in _main_transfers(analysis, condition):
        figures.append(_gain_figure(found, analysis.task != "real", part))
        thirds = _trait_figure(found, analysis.task != "real", part)
        if thirds is not None:
            figures.append(thirds)
    return figures


def _gain_figure(found: Transfer, percent: bool, part: str) -> Figure:
    ordered = sorted(found.clients, key=lambda gain: -gain.gain)
    factor = 100.0 if percent else 1.0
    axis = Axis("gain, points" if percent else "gain (less squared error)")
    title = f"{found.title}: {AGAINST[found.kind]}"
    caption = "Who gains, who is harmed: above zero the client gains. "
    if len(ordered) > MOST_BARS:
        places = np.array_split(np.arange(len(ordered)), 100)
        values = [factor * float(np.mean([ordered[place].gain for place in group])) for group in places]
        names = tuple(f"{100 - number} % to {99 - number} % gain less" for number in range(100))
        plot = Bars(Axis(f"{count(len(ordered), 'client')}, in 100 groups by their gain"), axis, names, values)
        caption += "Each bar is the mean of one hundredth of the clients."
    else:
        plot, ranged = _client_bars(ordered, axis, factor)
        caption += "Lines are 95 % intervals over seeds." if ranged else ""
    said = f"{share(found.gaining.mean)} of {count(len(ordered), 'client')} gain and {share(found.harmed.mean)} lose"
    mean = f"{100 * found.gain.mean:+.1f} points" if percent else f"{found.gain.mean:+.3g}"
    return Figure(
        key=f"gain-{found.kind}{part}",
        title=title,
        caption=caption.strip(),
        alternative=f"{title}. {said}; the mean gain is {mean}.",
        plot=plot,
        wide=True,
    )


def _client_bars(ordered: Sequence[Gain], axis: Axis, factor: float) -> tuple[Bars, bool]:
    ranged = all(gain.low is not None and gain.high is not None for gain in ordered)
    seeds = len({gain.seed for gain in ordered})
    names = tuple(f"{gain.client}, seed {gain.seed}" if seeds > 1 else gain.client for gain in ordered)
    bars = Bars(
        Axis("client" if seeds == 1 else "client of a seed's split"),
        axis,
        names,
        [factor * gain.gain for gain in ordered],
        [factor * gain.low for gain in ordered if gain.low is not None] if ranged else (),
        [factor * gain.high for gain in ordered if gain.high is not None] if ranged else (),
        tuple(count(gain.num_validation, "validation sample") for gain in ordered),
    )
    return bars, ranged


def _trait_figure(found: Transfer, percent: bool, part: str) -> Figure | None:
    """Return the mean gain by thirds of size, skew and distance; None where nothing is known of the clients."""
    dots = [
        dot_of(_third_name(trait, place), third.gain, 100.0 if percent else 1.0, 0)
        for trait in found.traits
        for place, third in enumerate(trait.thirds)
    ]
    if not dots:
        return None
    related = [
        f"{trait.title}: rank correlation {trait.correlation.mean:+.2f}"
        for trait in found.traits
        if trait.correlation is not None
    ]
    return Figure(
        key=f"gain-{found.kind}-by-trait{part}",
        title=f"{found.title}: what those who gain have in common",
        caption="Mean gain of the clients by thirds of a trait, with 95 % intervals over seeds. "
        + sentence_case("; ".join(related)),
        alternative="Mean gains. " + "; ".join(f"{dot.name}: {dot.value:+.3g}" for dot in dots),
        plot=Dots(Axis("mean gain, points" if percent else "mean gain"), tuple(dots), reference=0.0),
        wide=True,
    )


def _third_name(trait: Trait, place: int) -> str:
    third = trait.thirds[place]
    return f"{TRAITS.get(trait.name, trait.name)} {third.low:.3g} to {third.high:.3g}"


def _transfer_table(transfers: Sequence[Transfer], looks: Looks, percent: bool) -> Table:
    columns = (
        Column("contender", "text", "ascending"),
        Column("heads", "text", "ascending"),
        Column("mean gain, points" if percent else "mean gain"),
        Column("clients that gain"),
        Column("clients harmed", first="ascending"),
        Column("surely gain"),
        Column("surely harmed", first="ascending"),
    )
    return Table("Gain and harm", columns, tuple(_transfer_row(found, looks, percent) for found in transfers))


def _transfer_row(found: Transfer, looks: Looks, percent: bool) -> Row:
    half = found.gain.half_width
    factor, digits = (100, ".1f") if percent else (1, ".3g")
    return Row(
        (
            Cell(found.title),
            Cell(found.kind.replace("-", " ")),
            Cell(
                f"{factor * found.gain.mean:+{digits}}",
                found.gain.mean,
                f"± {factor * half:{digits}}" if half is not None else "",
                "gain" if found.gain.mean > 0 else "harm",
            ),
            Cell(share(found.gaining.mean), found.gaining.mean),
            Cell(share(found.harmed.mean), found.harmed.mean),
            Cell(NOTHING if found.sure_gains is None else str(found.sure_gains), found.sure_gains),
            Cell(NOTHING if found.sure_harms is None else str(found.sure_harms), found.sure_harms),
        ),
        style=looks.styles.get(found.contender),
    )
