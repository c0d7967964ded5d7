"""Tables of texts: cleaning, what is left out, owners by a pattern, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fedgraft.data.federation import Federation
from fedgraft.data.partitions import assign
from fedgraft.data.samples import Samples
from fedgraft.data.settings import NaturalSettings, TextCsvSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError

VADER = Path(__file__).parents[3] / "shared" / "data" / "vader-sentiment" / "vader_sentiment.csv"
needs_vader = pytest.mark.skipif(not VADER.is_file(), reason="no sentiment texts in ../shared/data/vader-sentiment")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Samples]:
    def write(text: str | bytes, **values: Any) -> Samples:
        path = tmp_path / "texts.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_samples(TextCsvSettings(path=str(path), **values), seed=1)

    return write


def test_texts_are_cleaned_as_a_person_reads_them(load: Callable[..., Samples]) -> None:
    lines = ["  Salt &amp; pepper ", "two\u00a0\t  blanks", "1 &lt; 2", "Cafe\u0301", '"two\nlines"', "&quot;so&quot;"]
    samples = load("text,label\n" + "".join(f"{line},{'ab'[n % 2]}\n" for n, line in enumerate(lines)))
    expected = ["Salt & pepper", "two blanks", "1 < 2", "Caf\u00e9", "two lines", '"so"']
    assert samples.texts(range(6)) == expected
    assert (samples.kind, samples.notes) == ("texts", ())
    assert samples.sample_ids.tolist() == list("012345")


def test_empty_texts_are_left_out_and_counted(load: Callable[..., Samples]) -> None:
    samples = load("text,label\na,x\n  ,\n&nbsp;,y\nb,y\n")
    assert samples.texts([0, 1]) == ["a", "b"]
    assert samples.notes == ("2 empty texts left out: line 3, line 4",)
    assert samples.sample_ids.tolist() == ["0", "3"]


def test_equal_texts_have_equal_digests_and_others_do_not(load: Callable[..., Samples]) -> None:
    digests = load("text,label\na,x\nb,y\na ,x\n", duplicates="keep").sample_digests()
    assert digests[0].tolist() == digests[2].tolist() != digests[1].tolist()


def test_only_whole_entities_are_read(load: Callable[..., Samples]) -> None:
    samples = load("text,label\n?a=1&copy=2 &amp;amp; &#233;,x\nb,y\n")
    assert samples.texts([0]) == ["?a=1&copy=2 & é"]


def test_repeated_texts_are_left_out_but_the_first(load: Callable[..., Samples]) -> None:
    samples = load("text,label\ngood,x\nbad,y\n good,x\ngood,y\n")
    assert samples.texts([0, 1]) == ["good", "bad"]
    assert samples.notes == ("2 texts left out, as an earlier row has them too; 1 of these with another label",)


def test_the_test_part_keeps_what_both_parts_have(load: Callable[..., Samples]) -> None:
    table = "text,label,part\ngood,x,train\nbad,y,train\nfine,x,train\ngood,x,test\nfine,x,train\n"
    samples = load(table, split_column="part")
    assert samples.texts(range(3)) == ["bad", "fine", "good"]
    assert samples.is_test is not None
    assert samples.is_test.tolist() == [False, False, True]
    assert samples.notes == ("2 texts left out, as the test part or an earlier row has them too",)
    assert load(table, split_column="part", duplicates="keep").num_samples == 5


OTHERS = [("utf-16", "byte 0 (0xff, line 1)", "UTF-16"), ("cp1252", "byte 21 (0xe9, line 3)", "WINDOWS-1252")]


@pytest.mark.parametrize(("encoding", "place", "likely"), OTHERS)
def test_another_encoding_is_named_by_its_byte(
    load: Callable[..., Samples], encoding: str, place: str, likely: str
) -> None:
    with pytest.raises(DataError, match="is not UTF-8") as caught:
        load("text,label\ngood,x\ncafé,y\n".encode(encoding))
    assert place in str(caught.value)
    assert f"iconv -f {likely} -t UTF-8 texts.csv" in str(caught.value)


def test_the_byte_counts_from_the_beginning_of_a_long_file(load: Callable[..., Samples]) -> None:
    start = b"text,label\n" + b"good,x\n" * 50_000
    with pytest.raises(DataError, match=rf"byte {len(start):,} \(0xe9, line 50,002\)"):
        load(start + b"\xe9t\xe9,y\n")


def test_a_text_may_be_longer_than_pythons_limit(load: Callable[..., Samples]) -> None:
    long = "word " * 60_000
    assert load(f"text,label\n{long},x\nshort,y\n").texts([0]) == [long.strip()]


def test_bad_tables_are_refused(load: Callable[..., Samples]) -> None:
    with pytest.raises(DataError, match=r"no column 'text' \(text_column\); it has texts, label; did you mean 'texts'"):
        load("texts,label\na,x\nb,y\n")
    with pytest.raises(DataError, match="column 'text' is empty in every row"):
        load("text,label\n ,x\n&nbsp;,y\n")
    with pytest.raises(DataError, match="all samples that have a label, 1 of 2, have the one class 'x'"):
        load("text,label\na,x\n,\nb,\n")
    with pytest.raises(DataError, match=r"column 'label' is empty in 1 of 2 rows \(line 4\)"):
        load("text,label\na,1\n,\nb,\n", task="real")
    with pytest.raises(DataError, match="all 2 samples have the one class 'x'"):
        load("text,label\na,x\nb,x\n")


def test_labels_that_are_words_and_numbers_are_told_of(load: Callable[..., Samples]) -> None:
    samples = load("text,label\na,1\nb,positive\nc,0\n")
    assert samples.label_names == ("0", "1", "positive")
    assert samples.notes == ("labels are numbers (0, 1) and words (positive): each is a class of its own",)
    assert load("text,label\na,10\nb,9\nc,0\n").label_names == ("0", "9", "10")
    assert load("text,label\na,1.5\nb,-2\n", task="real").targets.tolist() == [1.5, -2.0]
    assert load("text,label\na,x|y\nb,\n", task="labels").targets.tolist() == [[1, 1], [0, 0]]


def test_a_class_that_only_one_client_has_is_in_everybodys_head(
    load: Callable[..., Samples], build: Callable[..., Federation], tmp_path: Path
) -> None:
    load("text,label,shop\na,x,north\nb,y,north\nc,x,south\nd,rare,south\ne,y,south\n")
    source = {"name": "text-csv", "path": str(tmp_path / "texts.csv"), "client_column": "shop"}
    federation = build(source, "natural", test_fraction=0)
    assert federation.samples.label_names == ("rare", "x", "y")
    assert federation.label_counts().tolist() == [[0, 1, 1], [1, 1, 1]]
    assert any("label sets differ: 1 of 2 clients" in note for note in federation.notes)


def test_owners_by_a_pattern(load: Callable[..., Samples]) -> None:
    table = "id,text,label\na_1_2,p,x\na_1_3,q,y\na_10_1,r,x\nb_2,s,y\n"
    samples = load(table, id_column="id", client_column="id", client_pattern="([a-z]_[0-9]+)")
    assert samples.natural_client is not None
    assert samples.natural_client.tolist() == ["a_1", "a_1", "a_10", "b_2"]
    with pytest.raises(DataError, match=r"client_pattern '\(a_.*\)_' does not fit column 'id' in 1 of 4 rows \(line 5"):
        load(table, client_column="id", client_pattern="(a_.*)_")
    with pytest.raises(ValidationError, match="came '\\(a'; missing \\)"):
        TextCsvSettings(path="x", client_column="id", client_pattern="(a")
    with pytest.raises(ValidationError, match="is about client_column"):
        TextCsvSettings(path="x", client_pattern="a")


def test_whole_owners_are_dealt_to_fewer_clients(load: Callable[..., Samples]) -> None:
    """Ten owners of 1 to 10 samples, to three clients: by hand, middles at 0.5, 2, 4.5, 8, ... of 55 samples."""
    rows = [f"o_{owner},text {owner} {number},{'xy'[number % 2]}" for owner in range(1, 11) for number in range(owner)]
    samples = load("who,text,label\n" + "\n".join(rows) + "\n", client_column="who")
    dealt = assign(samples, np.arange(55), NaturalSettings(into=3), seed=1)
    # 55 / 3 = 18.3: owners 1 to 5 end at 15 and 6 has its middle at 18; 8 has its middle at 32, 9 at 40.5.
    assert dealt.members.counts.tolist() == [21, 15, 19]
    assert dealt.client_names == ("client-0000", "client-0001", "client-0002")
    assert samples.natural_client is not None
    owners = [set(samples.natural_client[dealt.members.of(client)].tolist()) for client in range(3)]
    assert owners == [{f"o_{n}" for n in range(1, 7)}, {"o_7", "o_8"}, {"o_9", "o_10"}]
    assert np.array_equal(np.sort(dealt.members.indices), np.arange(55))
    with pytest.raises(DataError, match="into came 11 clients, but the samples to divide have 10 owners"):
        assign(samples, np.arange(55), NaturalSettings(into=11), seed=1)


def test_every_client_gets_an_owner_however_large_one_is(load: Callable[..., Samples]) -> None:
    rows = [f"a,big {number},{'xy'[number % 2]}" for number in range(50)] + ["b,p,x", "c,q,y"]
    samples = load("who,text,label\n" + "\n".join(rows) + "\n", client_column="who")
    assert assign(samples, np.arange(52), NaturalSettings(into=3), seed=1).members.counts.tolist() == [50, 1, 1]


@needs_vader
def test_the_sentiment_texts_as_they_are() -> None:
    """Of the README: 23,703 texts of four domains, 83 of which occur more than once, entities left in."""
    samples = load_samples(TextCsvSettings(path=str(VADER), client_column="domain", id_column="id"), seed=1)
    assert samples.label_names == ("negative", "neutral", "positive")
    assert samples.natural_client is not None
    assert np.unique(samples.natural_client).tolist() == ["amazon", "movies", "nyt", "tweets"]
    assert not any("&amp;" in text for text in samples.texts(range(samples.num_samples)))
    kept = load_samples(TextCsvSettings(path=str(VADER), duplicates="keep"), seed=1)
    assert kept.num_samples == 23703
    assert len(np.unique(kept.sample_digests(), axis=0)) == samples.num_samples
