"""A run's backbone and head together in one file, for ONNX runtimes, for torch, or for FedGraft again."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedgraft.errors import FedGraftError, ModelError, listed, nearest
from fedgraft.files import replacing, write_bytes
from fedgraft.model_card import TOKEN_INPUTS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from fedgraft.models.backbone import Backbone
    from fedgraft.runs import Run
    from fedgraft.trained import TrainedModel

TOLERANCE = 1e-4
"""Largest `max|a - b| / max|b|` between the file's outputs and the model's; a file beyond it is not kept."""

LARGEST_ONNX_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which holds at most 2 GiB."""

INSTALL = 'pip install "fedgraft[export]"'

Outputs = dict[str, "Tensor"]
Runner = Callable[["Tensor"], Outputs]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far its outputs are from the run's own.

    Attributes:
        file: the file.
        num_bytes: its size.
        inputs: what it takes, in words.
        outputs: names of what it gives.
        label_names: of the outputs, in their order.
        largest_difference: between its outputs and the model's for random inputs, `max|a - b| / max|b|`; None if
            nothing here can run it.
        checked_with: what ran it; None if nothing can.
        tokenizer: the tokenizer of texts, beside the file; it reads as many tokens as the model does.
    """

    file: Path
    num_bytes: int
    inputs: str
    outputs: tuple[str, ...]
    label_names: tuple[str, ...]
    largest_difference: float | None
    checked_with: str | None
    tokenizer: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "file": str(self.file), "tokenizer": self.tokenizer and str(self.tokenizer)}

    def text(self) -> str:
        """Return it as a few aligned lines."""
        checked = (
            f"with {self.checked_with}: largest difference {self.largest_difference:.1e}"
            if self.checked_with
            else f"not run here: onnxruntime is not installed ({INSTALL})"
        )
        size = f"{self.num_bytes / 1e6:,.1f} MB" if self.num_bytes >= 1e5 else f"{self.num_bytes / 1e3:,.1f} kB"
        rows = {
            "file": f"{self.file} ({size})",
            "input": self.inputs,
            "outputs": f"{', '.join(self.outputs)} of {len(self.label_names)}: {listed(self.label_names, 10)}",
            "checked": checked,
        }
        if self.tokenizer is not None:
            rows["tokens"] = f"{self.tokenizer} (for the tokenizers library)"
        return "\n".join(f"{name:<8} {value}" for name, value in rows.items())


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        check: raises if this machine can't write it.
        write: writes a model to a path, whatever the path's suffix.
        runner: returns what runs the file, and its name; None if there is nothing.
    """

    check: Callable[[], None]
    write: Callable[[TrainedModel, Path], None]
    runner: Callable[[Path], tuple[str, Runner] | None]


def export_run(run: Run, to: str | Path) -> ExportReport:
    """Write a run's trained model as one file, and compare what it gives with what the model gives.

    `.onnx`: any ONNX runtime. `.pt2`: `torch.export.load(path).module()`, no FedGraft needed. `.safetensors`: the
    tensors, for `fedgraft.trained.load_safetensors`. In all three the normalisation is inside, and the number of
    inputs a call is free.

    Raises:
        ModelError: another suffix, the packages for ONNX are missing, or the file gives other outputs.
        StoreError: the run has no model, or the file can't be written.
    """
    _format(Path(to)).check()
    return export_model(run.model, to)


def export_model(model: TrainedModel, to: str | Path) -> ExportReport:
    """Write a trained model as one file; see `export_run`."""
    path = Path(to).absolute()
    kind = _format(path)
    kind.check()
    with replacing(path) as temporary:
        try:
            with _silence():
                kind.write(model, temporary)
                found = kind.runner(temporary)
                difference = None if found is None else _largest_difference(model, found[1])
        except (FedGraftError, OSError):
            raise
        except Exception as error:  # an exporter raises whatever its graph passes raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            other = ".pt2" if path.suffix.lower() == ".safetensors" else ".safetensors"  # this one needs no graph
            raise ModelError(
                f"{model.card.info.name} can't be written as {path.suffix}: {reason}; try {other}"
            ) from error
        if difference is not None and not difference <= TOLERANCE:
            raise ModelError(
                f"{path.name} would give other outputs than the run (by {difference:.1e}, allowed {TOLERANCE:.0e}); "
                f"it is not written; try another of {listed(FORMATS)}"
            )
    card = model.card
    tokenizer = None
    if card.takes == "texts":
        tokenizer = path.with_name(f"{path.stem}.tokenizer.json")
        write_bytes(tokenizer, _tokenizer_file(model))
    return ExportReport(
        file=path,
        num_bytes=path.stat().st_size,
        inputs=card.input_text,
        outputs=card.output_names,
        label_names=card.label_names,
        largest_difference=difference,
        checked_with=None if found is None else found[0],
        tokenizer=tokenizer,
    )


def exported_program(model: TrainedModel) -> ExportedProgram:
    """Return the model's graph with a free number of inputs, and with no tensor that the graph doesn't use."""
    import torch

    model = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    # Two of each: a size of one would be taken for a constant.
    batch = torch.export.Dim("batch")
    graph: nn.Module = model
    example: tuple[Tensor, ...] = (torch.zeros(2, *model.card.input_shape),)
    shapes: dict[str, Any] = {"inputs": {0: batch}}
    if model.card.takes == "texts":
        tokens = torch.export.Dim("tokens", max=model.card.input_shape[0])
        graph, example = _of_tokens(model), _given(torch.ones(2, 4, 2, dtype=torch.int64))
        shapes = {name: {0: batch, 1: tokens} for name in TOKEN_INPUTS}
    program = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
    _prune(program)
    return program


def _of_tokens(model: TrainedModel) -> nn.Module:
    """Return a model of texts as a module of two inputs, numbers of tokens and their mask, as transformers has them."""
    import torch
    from torch import nn

    class OfTokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Outputs:
            outputs: Outputs = self.model(torch.stack([input_ids, attention_mask], dim=-1))
            return outputs

    return OfTokens()


def _given(inputs: Tensor) -> tuple[Tensor, ...]:
    """Return what a file is given for inputs: themselves, or of tokens `(N, T, 2)` the numbers and the mask."""
    is_tokens = inputs.ndim == 3 and not inputs.is_floating_point()
    return (inputs[..., 0].contiguous(), inputs[..., 1].contiguous()) if is_tokens else (inputs,)


def _tokenizer_file(model: TrainedModel) -> bytes:
    from fedgraft.features.texts import tokenizer_of

    text: str = tokenizer_of(cast("Backbone", model.backbone)).to_str()
    return text.encode()


def _prune(program: ExportedProgram) -> None:
    """Drop what lies after the cut, counters of batches, example inputs and source lines with this machine's paths."""
    program.graph.eliminate_dead_code()
    unused = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    signature = program.graph_signature
    gone = [spec for spec in signature.input_specs if spec.arg.name in unused and spec.target is not None]
    for spec in gone:
        program.graph.erase_node(unused[spec.arg.name])
        program.state_dict.pop(str(spec.target), None)
        program.constants.pop(str(spec.target), None)
    signature.input_specs[:] = [spec for spec in signature.input_specs if spec not in gone]
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    program.example_inputs = None
    program.graph_module.recompile()
    program.validate()  # type: ignore[no-untyped-call]  # torch's own


def _format(path: Path) -> Format:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        came = f"ends in '{suffix}'" if suffix else "has no suffix"
        raise ModelError(f"{path.name} {came}; expected one of {listed(FORMATS)}{nearest(suffix, FORMATS)}")
    return FORMATS[suffix]


def _nothing_missing() -> None:
    """Torch and safetensors are always there."""


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"exporting to ONNX needs the package {error.name}; {INSTALL}") from error


def _write_onnx(model: TrainedModel, path: Path) -> None:
    import torch

    num_bytes = sum(tensor.nbytes for tensor in model.parameters())
    if num_bytes > LARGEST_ONNX_BYTES:
        raise ModelError(
            f"the model has {num_bytes / 1e9:.1f} GB, one ONNX file holds 2 GiB at most; "
            "export to .safetensors or .pt2 instead"
        )
    card = model.card
    exported = torch.onnx.export(
        exported_program(model),
        input_names=list(TOKEN_INPUTS) if card.takes == "texts" else [card.takes],
        output_names=list(card.output_names),
        dynamic_shapes=(
            {name: {0: "batch", 1: "tokens"} for name in TOKEN_INPUTS}
            if card.takes == "texts"
            else {"inputs": {0: "batch"}}
        ),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if exported is None:
        raise ModelError("torch.onnx.export gave nothing; export to .safetensors or .pt2 instead")
    graph = exported.model.graph
    graph.metadata_props.clear()
    for part in (*graph, *graph.initializers.values(), *graph.inputs, *graph.outputs):
        part.metadata_props.clear()
    exported.model.metadata_props.clear()
    exported.model.metadata_props.update(card.to_metadata())
    exported.save(path, external_data=False)


def _onnx_runner(path: Path) -> tuple[str, Runner] | None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # from 1.29 on onnxruntime reports to Microsoft, from its import on
    try:
        import onnxruntime
    except ImportError:
        return None
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes to the terminal past Python
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    taken = [one.name for one in session.get_inputs()]

    def run(inputs: Tensor) -> Outputs:
        given = zip(taken, _given(inputs), strict=True)
        values = session.run(names, {name: value.numpy() for name, value in given})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return f"onnxruntime {onnxruntime.__version__}", run


def _write_pt2(model: TrainedModel, path: Path) -> None:
    import torch

    extra = {"metadata.json": json.dumps(model.card.to_metadata(), ensure_ascii=False, indent=1)}
    with path.open("wb") as file:
        torch.export.save(exported_program(model), file, extra_files=extra)


def _pt2_runner(path: Path) -> tuple[str, Runner]:
    import torch

    with path.open("rb") as file:
        loaded = torch.export.load(file).module()

    def run(inputs: Tensor) -> Outputs:
        outputs: Outputs = loaded(*_given(inputs))
        return outputs

    return f"torch {importlib.metadata.version('torch')}", run


def _write_safetensors(model: TrainedModel, path: Path) -> None:
    from fedgraft.trained import save_safetensors

    save_safetensors(model, path)


def _safetensors_runner(path: Path) -> tuple[str, Runner]:
    from fedgraft.trained import load_safetensors

    return "fedgraft.trained.load_safetensors", load_safetensors(path)


FORMATS: dict[str, Format] = {
    ".onnx": Format(_check_onnx, _write_onnx, _onnx_runner),
    ".safetensors": Format(_nothing_missing, _write_safetensors, _safetensors_runner),
    ".pt2": Format(_nothing_missing, _write_pt2, _pt2_runner),
}


def _largest_difference(model: TrainedModel, runner: Runner) -> float:
    """Return the largest relative difference of any output, for batches of one and of three random inputs."""
    import torch

    from fedgraft.trained import relative_difference

    largest = 0.0
    generator = torch.Generator().manual_seed(1)
    for count in (1, 3):
        if model.card.takes == "texts":
            inputs = torch.randint(0, 4, (count, 2 + 3 * count, 2), generator=generator)
            inputs[..., 1] = (torch.arange(2 + 3 * count) <= torch.arange(count)[:, None] + 1).long()
        else:
            inputs = torch.rand(count, *model.card.input_shape, generator=generator)
        with torch.inference_mode():
            came, wanted = runner(inputs), model(inputs)
        largest = max(largest, *(relative_difference(came[name], wanted[name]) for name in model.card.output_names))
    return largest


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' progress, warnings and logs from the terminal."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            logging.disable(before)
