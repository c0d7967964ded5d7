"""What a finished run leaves beside its rows: head, summary, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgraft.errors import listed
from fedgraft.files import write_text
from fedgraft.memory import peak_bytes
from fedgraft.metrics import BESIDE, PRIMARY, metric_rows, summarise
from fedgraft.models.losses import Task
from fedgraft.progress import report
from fedgraft.stages import strategies_text
from fedgraft.tensor_files import save_tensors
from fedgraft.wire.protocol import SCHEMA
from fedgraft.workspace import open_workspace
from server.advice.checks import advice
from server.advice.facts import facts_of
from server.balance import balance, measured_line
from server.lifelong import lifelong_summary, task_lines, write_tasks
from server.pseudo_labels import pseudo_label_rows, pseudo_labels_of
from server.round_record import RoundRecord
from server.stages import stages_of
from server.tracking import track
from server.unfreezing import tuned, tuned_text

if TYPE_CHECKING:
    from server.course import Course

GROUP_METRIC: dict[Task, str] = {"classes": "accuracy", "labels": "accuracy", "real": "squared_error"}
"""What the score of a group is called: shares of right answers or labels, or the squared error summed over targets."""


def write_results(course: Course) -> None:
    """Write `head.safetensors`, the pictures, and last `summary.json`, which marks the run as finished."""
    path = course.directory.path
    report("phase", name="results")
    save_tensors(path / "head.safetensors", course.head, {"schema": SCHEMA, "round": course.number_of_head})
    summary = summary_of(course)
    line = measured_line(summary["hosts"])
    if line is not None:
        report("explain", text=line)
    if course.pictures:
        title = f"{summary['name']}: {strategies_text(summary)}, {summary['num_clients']:,} clients"
        _draw(course, summary["metric"], title)
    write_tasks(course, summary)
    write_text(path / "summary.txt", summary_text(summary))
    track(course.part.tracking, path, summary)
    write_text(path / "summary.json", json.dumps(summary, indent=2) + "\n")
    report("finished", **{key: summary[key] for key in ("rounds", "bytes_down", "bytes_up")})


def _draw(course: Course, metric: str, title: str) -> None:
    """Draw the metric over rounds, and what each client had."""
    from fedgraft.data.summary import partition_picture
    from server.pictures import accuracy_picture

    path, part = course.directory.path, course.part
    accuracy_picture(metric_rows(path), path / "accuracy.png", metric, title, course.directory.stages)
    if part.data.at_sites:
        return
    workspace = open_workspace(part.data, part.seed, part.backbone, part.features)
    partition_picture(workspace.federation, path / "partition.png")


def summary_of(course: Course) -> dict[str, Any]:
    """Return what came out, and what it cost."""
    adapter, counters = course.adapter, course.counters
    task = adapter.objective.task
    last = adapter.record or RoundRecord(np.zeros(0, dtype=np.int64))
    groups = course.central.by_group(course.head, course.cut_of_head) if course.central is not None else {}
    personal, lifelong = last.summarised("personal", task), lifelong_summary(course)
    central = summarise(course.central_sums, task) if course.central_sums is not None else {}
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "name": course.part.name,
        "strategy": course.part.strategy.name,
        "answer": course.part.strategy.answer,
        "task": task,
        "metric": PRIMARY[task],
        "rounds": course.round_number,
        **({} if course.head_round is None else {"best_round": course.head_round}),
        **_stages(course, central, last.summarised("validation", task)),
        "num_clients": len(course.roster.names),
        "num_train": int(course.roster.num_train.sum()),
        **({"num_unlabelled": int(course.roster.num_unlabelled.sum())} if course.roster.num_unlabelled.any() else {}),
        **pseudo_labels_of(course),
        "label_names": list(course.roster.label_names),
        **({"feature_names": list(course.roster.feature_names)} if course.roster.feature_names else {}),
        **_attack(course),
        **({} if course.part.align is None else {"align": course.part.align.model_dump(mode="json")}),
        **tuned(course, course.number_of_head),
        "weights_digest": adapter.weights_digest,
        "central": central,
        "validation": last.summarised("validation", task),
        **({"personal": personal} if personal else {}),
        **_groups(groups, task),
        **({"label_shift": course.label_shift} if course.label_shift else {}),
        **lifelong,
        "advice": [asdict(found) for found in advice(facts_of(course, groups, lifelong.get("tasks")))],
        "bytes_down": counters.bytes_down,
        "bytes_up": counters.bytes_up,
        "hosts": balance(course.roster, course.part.shards, adapter.busy_seconds),
        "seconds": {name: round(value, 3) for name, value in counters.seconds.items()},
        "peak_memory_bytes": peak_bytes(),
    }
    if course.central_sums is not None and "confusion" in course.central_sums:
        summary["central_confusion"] = np.asarray(course.central_sums["confusion"]).astype(int).tolist()
    if course.central_sums is not None and "bin_count" in course.central_sums:
        names = ("count", "confidence", "correct")
        summary["central_reliability"] = {name: course.central_sums[f"bin_{name}"].tolist() for name in names}
    return summary


def _stages(course: Course, central: Mapping[str, float], validation: Mapping[str, float]) -> dict[str, Any]:
    """Return what each stage was and what came out of it, with what the run ended with for the last; or nothing."""
    stages = stages_of(course)
    if not stages:
        return {}
    stages[-1] |= {} if course.head_round is None else {"best_round": course.head_round}
    stages[-1] |= {"central": dict(central)} if central else {}
    stages[-1] |= {"validation": dict(validation)} if validation else {}
    rounds = sum(stage["rounds"] for stage in stages)
    return {"rounds": rounds, "head_round": course.number_of_head, "stages": stages}


def _groups(groups: Mapping[str, tuple[int, float]], task: Task) -> dict[str, Any]:
    """Return the mean score of each group of the central test part; nothing where the data name no groups."""
    if not groups:
        return {}
    rows = {name: {"num_samples": count, GROUP_METRIC[task]: total / count} for name, (count, total) in groups.items()}
    return {"central_groups": rows}


def _attack(course: Course) -> dict[str, Any]:
    """Return which attack there was and who lied, by name; nothing if nobody did."""
    attack = course.part.attack
    if attack is None:
        return {}
    return {"attack": attack.model_dump(), "attackers": list(course.roster.attackers(attack, course.part.seed))}


def _attack_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    if "attack" not in summary:
        return []
    attack = summary["attack"]
    return [(attack["name"], f"from round {attack['from_round']}, by {listed(summary['attackers'])}")]


def _align_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the line that says how features were aligned."""
    align = summary.get("align")
    if align is None:
        return []
    if align["name"] == "standardise":
        return [("features", "standardised by the mean and variance of all clients")]
    if align["name"] == "adabn":
        return [("features", "by batch norm with the statistics of each client's own images (adabn)")]
    reference = "all clients" if align["reference"] is None else listed(align["reference"])
    return [("features", f"of each client brought onto the moments of {reference} (coral, {align['covariance']})")]


def headlines(summary: dict[str, Any]) -> list[tuple[str, float]]:
    """Return what a summary leads with: the metric on each part, and how personal heads serve the worst clients."""
    parts = {"central": "central test", "validation": "clients' validation parts"}
    heads = {"personal": "own heads", "validation": "global head"}
    if summary["answer"] == "own" and "personal" in summary:  # nobody would use the global head
        parts, heads = {"personal": "clients' own heads on their validation parts"}, {"personal": "own heads"}
    found = [(label, summary[group][summary["metric"]]) for group, label in parts.items() if summary[group]]
    for group, label in heads.items():
        values = summary.get(group, {}) if "personal" in summary else {}
        for key, who in (("client_mean", "mean of clients"), ("client_worst_decile", "worst tenth of clients")):
            if key in values:
                found.append((f"{label}, {who}", values[key]))
    return found


def summary_text(summary: dict[str, Any]) -> str:
    """Return the summary as a few aligned lines."""
    metric = summary["metric"]
    title = metric.replace("_", " ")
    rows = [("strategy", strategies_text(summary))]
    rows += [(f"{title}, {label}", f"{value:.4f}") for label, value in headlines(summary)]
    rows += [
        *_beside_rows(summary),
        *_group_rows(summary),
        *_label_shift_rows(summary),
        ("rounds", f"{summary['rounds']}{_stopped(summary)}"),
        *_stage_rows(summary),
        ("clients", f"{summary['num_clients']} ({summary['num_train']:,} training samples)"),
        *pseudo_label_rows(summary),
        *_attack_rows(summary),
        *_align_rows(summary),
        ("bytes down / up", f"{summary['bytes_down']:,} / {summary['bytes_up']:,}"),
        *([("bytes of updates", tuned_text(summary["tuned"]))] if "tuned" in summary else []),
        ("hosts", _hosts_text(summary["hosts"])),
        ("seconds", ", ".join(f"{name} {value:.2f}" for name, value in summary["seconds"].items())),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += task_lines(summary)
    lines += [f"advice: {found['text']}." for found in summary["advice"]]
    return "".join(f"{line}\n" for line in lines)


def _beside_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the metrics that are shown beside the one that leads, on the part that it leads with."""
    group = next((group for group in ("central", "personal", "validation") if summary.get(group)), None)
    scored = {} if group is None else summary[group]
    return [(name.replace("_", " "), f"{scored[name]:.4f}") for name in BESIDE[summary["task"]] if name in scored]


def _group_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    metric = GROUP_METRIC[summary["task"]]
    groups = summary.get("central_groups", {})
    return [
        (f"{metric.replace('_', ' ')}, group {name}", f"{of[metric]:.4f} ({of['num_samples']:,} samples)")
        for name, of in groups.items()
    ]


def _label_shift_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the head reaches with label priors as its answers tell them."""
    found = summary.get("label_shift", {})
    rows = [
        (f"accuracy, {label}, label priors corrected", f"{found[group]['accuracy']:.4f}")
        for group, label in (("central", "central test"), ("validation", "clients' validation parts"))
        if found.get(group)
    ]
    return [*rows, ("label priors", "not corrected: see the note")] if "refused" in found else rows


def _stage_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a row a stage: what it was, what its head scored, and what it cost."""
    found, metric = [], summary["metric"]
    for stage in summary.get("stages", []):
        scored: Mapping[str, float] = next(
            (stage[part] for part in ("central", "validation") if metric in stage.get(part, {})), {}
        )
        facts = [stage["strategy"], _counted(stage["rounds"], "round")]
        facts += [f"head of round {stage['best_round']}"] if "best_round" in stage else []
        facts += [f"{metric.replace('_', ' ')} {scored[metric]:.4f}"] if scored else []
        facts += [f"bytes {stage['bytes_down']:,} / {stage['bytes_up']:,}", f"{stage['seconds']:.2f} s"]
        found.append((f"stage {stage['name']}", ", ".join(facts)))
    return found


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _stopped(summary: dict[str, Any]) -> str:
    return f" (stopped early, the head is that of round {summary['best_round']})" if "best_round" in summary else ""


def _hosts_text(hosts: dict[str, Any]) -> str:
    if hosts["number"] == 1:
        return "1"
    return (
        f"{hosts['number']}, with {hosts['shards']} shards (the busiest's work over the mean: "
        f"{hosts['predicted_imbalance']:.2f} predicted, {hosts['measured_imbalance']:.2f} measured)"
    )
