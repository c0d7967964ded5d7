"""Text encoders: the embeddings of transformers itself, cuts, what travels, and what is refused."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.site.host import site_backbone
from fedgraft.errors import DataError, MissingWeightsError, ModelError
from fedgraft.features.extract import features_of
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.features.texts import filled, tokenizer_of, tokens_of
from fedgraft.models.backbone import Backbone
from fedgraft.models.blocks import Blocks
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings

pytest.importorskip("transformers", reason="needs the extra text")

from text_encoder_folders import FAMILIES, TEXTS, by_transformers, save_encoder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def encoder(folder: Path, **values: object) -> Backbone:
    loaded = load(BackboneSettings(name=f"transformers:{folder}", **values))  # type: ignore[arg-type]
    assert isinstance(loaded, Backbone)
    return loaded


def tokens(backbone: Backbone, texts: list[str]) -> torch.Tensor:
    return filled(tokens_of(tokenizer_of(backbone), texts))


def close(came: torch.Tensor, wanted: torch.Tensor) -> None:
    assert came.shape == wanted.shape
    assert float((came - wanted).abs().max() / wanted.abs().max()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_mean_of_transformers_own_states(tmp_path: Path, family: str) -> None:
    folder = save_encoder(tmp_path / "encoder", family)
    backbone = encoder(folder)
    close(backbone.features(tokens(backbone, TEXTS)), by_transformers(folder, TEXTS))
    layers = ("embeddings", "layer.0", "layer.1") if family != "mpnet" else ()
    assert backbone.info.cuts == (*layers, "penultimate")
    assert (backbone.info.takes, backbone.info.feature_dim) == ("texts", 16)


def test_the_class_token_where_its_makers_say_so(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", pooling="cls_token")
    backbone = encoder(folder)
    assert backbone.info.pooling == "class_token"
    close(backbone.features(tokens(backbone, TEXTS)), by_transformers(folder, TEXTS, "class_token"))
    mean = encoder(folder, pooling="mean")
    close(mean.features(tokens(mean, TEXTS)), by_transformers(folder, TEXTS))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_prefix_and_suffix_of_each_cut_are_the_whole(tmp_path: Path, family: str) -> None:
    folder = save_encoder(tmp_path / "encoder", family)
    backbone = encoder(folder)
    wanted = by_transformers(folder, TEXTS)
    for cut in backbone.info.cuts:
        with torch.no_grad():
            states = backbone.prefix(cut)(tokens(backbone, TEXTS))
            close(backbone.suffix(cut)(states), wanted)
        assert states.shape == (4, 32, 17)  # the last channel is the mask
        torch.testing.assert_close(states[..., -1].sum(1), torch.tensor([6.0, 3, 14, 32]), rtol=0, atol=0)


def test_features_at_all_cuts_are_those_of_each(tmp_path: Path) -> None:
    backbone = encoder(save_encoder(tmp_path / "encoder"))
    x = tokens(backbone, TEXTS)
    at_once = backbone.features_at(dict.fromkeys(backbone.info.cuts, "mean"), x)
    alone = [encoder(tmp_path / "encoder", cut=cut).features(x) for cut in backbone.info.cuts]
    torch.testing.assert_close(at_once, torch.cat(alone, dim=1))


@pytest.mark.parametrize("cut", ["input", "embeddings", "layer.0"])
def test_blocks_give_the_features_of_texts_of_any_length(tmp_path: Path, cut: str) -> None:
    backbone = encoder(save_encoder(tmp_path / "encoder"))
    x = tokens(backbone, TEXTS[:2])
    blocks = backbone.blocks(cut)
    assert blocks.activation_shape == ((32, 2) if cut == "input" else (32, 17))
    activations = blocks.activations(x)
    assert activations.shape == (2, *blocks.activation_shape)
    start = {name: torch.from_numpy(value) for name, value in blocks.pretrained.items()}
    close(blocks.features(start, activations), backbone.features(x))


def test_lora_changes_nothing_until_it_is_trained(tmp_path: Path) -> None:
    backbone = encoder(save_encoder(tmp_path / "encoder"))
    unfreeze = UnfreezeSettings.model_validate({"cut": "embeddings", "method": {"name": "lora", "rank": 2}})
    blocks = backbone.blocks("embeddings", unfreeze)
    x = tokens(backbone, TEXTS)
    activations, plain = blocks.activations(x), backbone.features(x)
    drawn = {name: torch.from_numpy(value) for name, value in blocks.start(1).items()}
    ends = {name.rpartition(".lora_")[2] for name in drawn}
    assert ends == {"A.weight", "B.weight"}
    assert any(value.abs().max() > 0 for name, value in drawn.items() if "lora_A" in name)
    assert torch.equal(blocks.features(drawn, activations), plain)  # B is 0
    changed = {name: value + 0.1 for name, value in drawn.items()}
    wanted = blocks.features(changed, activations)
    assert not torch.allclose(wanted, plain)
    blocks.fill({name: value.numpy() for name, value in changed.items()})  # merged into the weights
    close(backbone.features(x), wanted)


def test_training_the_blocks_is_training_transformers_own(tmp_path: Path) -> None:
    """Gradients of the sum of squares, by the blocks and by transformers' own model."""
    from transformers import AutoModel

    folder = save_encoder(tmp_path / "encoder")
    backbone = encoder(folder)
    blocks: Blocks = backbone.blocks("layer.0")
    x = tokens(backbone, TEXTS)
    parameters = {name: torch.from_numpy(value).requires_grad_() for name, value in blocks.pretrained.items()}
    blocks.features(parameters, blocks.activations(x)).square().sum().backward()
    model = AutoModel.from_pretrained(folder).eval()
    hidden, mask = model(input_ids=x[..., 0], attention_mask=x[..., 1]).last_hidden_state, x[..., 1:].float()
    ((hidden * mask).sum(1) / mask.sum(1)).square().sum().backward()
    own = dict(model.named_parameters())
    assert len(parameters) == 16  # of one layer of BERT
    for name, value in parameters.items():
        wanted = own[name.removeprefix("backbone.encoder.")].grad
        assert value.grad is not None
        assert float((value.grad - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))


def test_weights_that_came_over_the_wire_bring_their_tokenizer(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    here = encoder(folder)
    wanted, arrays = here.features(tokens(here, TEXTS)), here.state_arrays()
    (folder / "config.json").unlink()  # a site without the encoder's files
    there = load(BackboneSettings(name=f"transformers:{folder}"), arrays)
    assert isinstance(there, Backbone)
    assert there.info.weights_digest == here.info.weights_digest
    assert torch.equal(there.features(tokens(there, TEXTS)), wanted)
    with pytest.raises(ModelError, match="came without its tokenizer"):
        load(BackboneSettings(name="bundled:minilm-l6-v2"), {k: v for k, v in arrays.items() if k != "tokenizer"})
    facts = json.loads(arrays["description"].tobytes())
    facts["config"]["hidden_size"] = 16_000_000
    huge = {**arrays, "description": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)}
    with pytest.raises(ModelError, match=r"is described as .* numbers, and .* came"):
        load(BackboneSettings(name=f"transformers:{folder}"), huge)
    bare = {name: value for name, value in arrays.items() if name in ("tokenizer", "description")}
    with pytest.raises(ModelError, match=r"is described as .* numbers, and 0 came"):
        load(BackboneSettings(name=f"transformers:{folder}"), bare)
    facts["config"] |= {"hidden_size": 32, "num_hidden_layers": 100_000_000}
    deep = {**arrays, "description": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)}
    with pytest.raises(ModelError, match=r"described with 100000000 layers, expected 200 at most"):
        load(BackboneSettings(name=f"transformers:{folder}"), deep)
    broken = {**arrays, "tokenizer": np.zeros_like(arrays["tokenizer"])}
    with pytest.raises(ModelError, match=r"the tokenizer of .* can't be read"):
        load(BackboneSettings(name=f"transformers:{folder}"), broken)


def test_a_description_loads_no_programs(tmp_path: Path) -> None:
    """With these keys transformers would ask the hub for kernels, or for code of the model's own."""
    folder = save_encoder(tmp_path / "encoder")
    here = encoder(folder)
    wanted = here.features(tokens(here, TEXTS))
    config = json.loads((folder / "config.json").read_text())
    programs = {
        "attn_implementation": "somebody/kernel",
        "_attn_implementation": "somebody/kernel",
        "auto_map": {"AutoModel": "somebody/code--model.Model"},
        "quantization_config": {"quant_method": "gptq"},
        "use_kernels": True,
    }
    (folder / "config.json").write_text(json.dumps(config | programs))
    there = encoder(folder)
    assert torch.equal(there.features(tokens(there, TEXTS)), wanted)


def test_a_site_asks_nobody_for_an_encoder_that_a_run_names(tmp_path: Path) -> None:
    """Neither the hub nor a folder of its machine: such weights are never there, so that the server sends its own."""
    folder = save_encoder(tmp_path / "encoder")
    for name in (f"transformers:{folder}", "transformers:some/encoder"):
        asked = site_backbone(BackboneSettings(name=name), None)
        with pytest.raises(ModelError, match="come with its folder"):
            describe(asked)
    own = BackboneSettings(name=f"transformers:{folder}")
    assert describe(site_backbone(own, own)).weights_digest == describe(own).weights_digest
    arrays = encoder(folder).state_arrays()
    received = load(site_backbone(own, None), arrays)
    assert received.info.weights_digest == describe(own).weights_digest


def test_another_tokenizer_is_another_backbone(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    first = encoder(folder).info
    path = folder / "tokenizer.json"
    changed = json.loads(path.read_text())
    changed["normalizer"] = None
    path.write_text(json.dumps(changed))
    second = encoder(folder).info
    assert first.weights_digest != second.weights_digest
    assert first.key() != second.key()
    assert first.preprocessing.words() != second.preprocessing.words()


class Sentences:
    """A source of texts in memory."""

    kind = "texts"

    def __init__(self, content: list[str]) -> None:
        self.content = content

    def texts(self, indices: np.ndarray) -> list[str]:
        return [self.content[index] for index in indices]

    def digests(self) -> np.ndarray:
        from fedgraft.data.sources.texts import Texts

        return Texts(tuple(self.content)).digests()


def samples_of(texts: list[str]):  # type: ignore[no-untyped-def]
    from fedgraft.data.samples import Samples, numbered

    targets = np.arange(len(texts), dtype=np.int64) % 2
    return Samples(Sentences(texts), targets, "classes", ("x", "y"), numbered(len(texts)))  # type: ignore[arg-type]


def test_stored_features_are_those_of_each_text_alone(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    texts = [" ".join(TEXTS[2].split()[: number % 12 + 1]) for number in range(37)]
    settings = BackboneSettings(name=f"transformers:{folder}")
    found = features_of(samples_of(texts), settings, FeatureSettings(batch_size=5), store=FeatureStore(tmp_path / "s"))
    alone = torch.cat([by_transformers(folder, [text]) for text in texts[:13]])
    close(torch.from_numpy(np.array(found[:13])), alone)
    np.testing.assert_array_equal(found[12:24], found[:12])  # equal texts


def test_texts_that_are_cut_are_counted(tmp_path: Path) -> None:
    from fedgraft.progress import listening

    folder = save_encoder(tmp_path / "encoder")
    said: list[str] = []
    with listening(lambda event: said.append(str(event.get("text", "")))):
        for _ in range(2):  # also when all is in the store
            settings = BackboneSettings(name=f"transformers:{folder}", max_length=8)
            features_of(samples_of(TEXTS), settings, FeatureSettings(), store=FeatureStore(tmp_path / "s"))
    assert [text for text in said if "longer" in text] == [
        "2 of 4 texts are longer than 8 tokens; only their beginning is read (backbone.max_length)"
    ] * 2


def test_a_source_and_a_backbone_that_do_not_match_are_both_named(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    with pytest.raises(DataError, match="lite0 needs images, this source gives texts; set `backbone: bundled:minilm"):
        features_of(samples_of(TEXTS), BackboneSettings(), FeatureSettings(), store=FeatureStore(tmp_path / "s"))
    from fedgraft.data.settings import SyntheticSettings
    from fedgraft.data.sources import load_samples

    ready = load_samples(SyntheticSettings(num_samples=20), seed=1)
    with pytest.raises(DataError, match="needs texts, this source gives ready features; set `backbone: identity`"):
        features_of(ready, BackboneSettings(name=f"transformers:{folder}"), FeatureSettings())


def test_what_is_no_encoder_that_can_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_encoder(tmp_path / "encoder")
    with pytest.raises(ModelError, match="there is no folder"):
        encoder(tmp_path / "none")
    with pytest.raises(ModelError, match="reads 32 tokens at most, came max_length 33"):
        encoder(folder, max_length=33)
    with pytest.raises(ModelError, match="takes texts, and input_size is about images; leave it out"):
        encoder(folder, input_size=64)
    with pytest.raises(ModelError, match="takes images, and max_length is about texts"):
        load(BackboneSettings(name="pixels", max_length=16))
    with pytest.raises(ModelError, match=r"has no cut 'layer.9'; its cuts are: embeddings, layer.0"):
        encoder(folder, cut="layer.9")
    with pytest.raises(ModelError, match="come with its folder"):
        encoder(folder, weights="weights.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"write its whole path, transformers:{folder}"):
        load(BackboneSettings(name="transformers:encoder"))
    with pytest.raises(MissingWeightsError, match=r"of transformers:some/encoder aren't on this machine"):
        load(BackboneSettings(name="transformers:some/encoder"))
    config = json.loads((folder / "config.json").read_text())
    other = copy.deepcopy(config) | {"model_type": "homemade", "auto_map": {"AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match=r"of the family 'homemade', .* a model's own code is never run"):
        encoder(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="16 tensors missing"):
        encoder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no model.safetensors \(it has pytorch_model.bin, which could run code"):
        encoder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"lacks tokenizer.json"):
        encoder(folder)


def test_random_weights_follow_their_seed(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    digests = [encoder(folder, weights="random", random_seed=seed).info.weights_digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_the_packaged_encoder(cache: Path) -> None:
    """The package's archive, opened by its path; embeddings of its own model, its 256 tokens of sbert's limit."""
    name = "bundled:minilm-l6-v2"
    backbone = load(BackboneSettings(name=name))
    assert isinstance(backbone, Backbone)
    folder = cache / "fedgraft" / "encoders" / "minilm-l6-v2"
    texts = ["A fine day.", "This was not a good film; the music, though, I liked!", "Hm", "word " * 300]
    close(backbone.features(tokens(backbone, texts)), by_transformers(folder, texts, length=256))
    assert (backbone.info.feature_dim, backbone.info.preprocessing.input_shape) == (384, (256, 2))
    assert describe(BackboneSettings(name=name)) == backbone.info
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)  # a damaged copy is made again
    assert load(BackboneSettings(name=name)).info == backbone.info
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_damaged_package_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "all_minilm_l6_v2"
    module.mkdir()
    (module / "__init__.py").write_text("raise SystemExit('imported')")
    with zipfile.ZipFile(module / "model.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"config.json in .* is not the one that was published; install the package"):
        load(BackboneSettings(name="bundled:minilm-l6-v2"))
    (module / "model.zip").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"can't read .*model.zip"):
        load(BackboneSettings(name="bundled:minilm-l6-v2"))
