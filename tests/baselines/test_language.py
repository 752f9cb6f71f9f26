"""Tests of the language models: what is asked, what is read, what is kept, whatever comes back."""

import json
import math
import signal
import time
from _thread import interrupt_main
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from chat_server import GOOD, photo, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icgeo.baselines.geocoding import geocode, kappa_of
from icgeo.baselines.language import LanguageLocator
from icgeo.baselines.language_models import EndpointModel, Reply
from icgeo.baselines.language_replies import mixture, read_reply
from icgeo.config import UsageError
from icgeo.evaluation import Episode, Query, evaluate
from icgeo.prediction import Example
from icgeo.sphere import distance_km

BAD = {
    "late": "late: no answer within 1.5 s in 2 tries",
    "nonsense": "nonsense: no JSON object: The the the",
    "refused": "refused: I'm sorry",
    "filtered": "refused by the endpoint",
    "cut": "cut off: longer than the tokens allowed",
    "broken": "cut off: ",
    "garbage": "cut off: ",
    "failing": "server error: ",
}
"""What the server does, and the start of the reason that is kept."""
WELL = ("good", "city", "country", "busy")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("ICGEO_TEST_KEY", "secret-of-the-test")
    with serving() as server:
        yield server


@pytest.fixture
def ask(server, tmp_path):
    """Make locators that ask the server, all with the same file of answers."""
    address = f"http://127.0.0.1:{server.server_port}/v1"

    def make(model=(), kind=EndpointModel, **options):
        settings = {"timeout_seconds": 30, "retries": 1, "key_variable": "ICGEO_TEST_KEY"}
        endpoint = kind("any", address, **settings | dict(model))
        return LanguageLocator(endpoint, tmp_path / "answers.jsonl", **options)

    return make


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_every_way_to_answer_is_a_row_and_nothing_is_asked_twice(server, ask, tmp_path):
    names = [*WELL, *BAD]
    queries = [Query(name, photo(name), (48.858, 2.294)) for name in names]
    episode = Episode("photos", "photos", (), queries)
    how = {"shots": (0,), "baselines": False}
    for folder in ("first", "again"):
        rows = evaluate([(ask({"timeout_seconds": 1.5}), episode)], **how, folder=tmp_path / folder)
        rows = rows.set_index("id")
        assert [*rows.index] == names
        assert rows["error"].isna().all()
        assert rows.loc[[*WELL], "located"].all()
        assert not rows.loc[[*BAD], "located"].any()
        assert rows.loc["good", "distance_km"] == pytest.approx(0, abs=0.01)
        uniform = math.log(4 * math.pi)
        assert rows.loc["refused", "nll"] == pytest.approx(uniform)
        assert rows.loc["good", "nll"] < rows.loc["country", "nll"]
        asked = len(server.requests)
    kept = {line["reason"] for line in lines(tmp_path / "answers.jsonl")}
    assert kept == {None, *(reason for reason in kept if reason)}
    for name, start in BAD.items():
        assert any((reason or "").startswith(start) for reason in kept), (name, kept)
    tries = {name: 2 if name in ("late", "broken", "failing", "busy") else 1 for name in names}
    assert server.tries == tries, "by the first run alone"
    assert asked == len(server.requests) == sum(tries.values())


def test_answers_are_kept_with_their_text_and_without_the_key(server, ask, tmp_path):
    ask().locate([photo("good"), photo("nonsense")], [])
    good, bad = sorted(lines(tmp_path / "answers.jsonl"), key=lambda line: line["reason"] or "")
    assert json.loads(good["text"].split("```")[1].removeprefix("json")) == GOOD
    assert (good["lat"], good["lon"], good["input_tokens"]) == (48.858, 2.294, 1000)
    assert bad["text"] == "The the the {lat: north} 42"
    assert bad["lat"] is None
    assert server.requests[0][2] == "Bearer secret-of-the-test"
    assert "secret" not in (tmp_path / "answers.jsonl").read_text()


def test_examples_are_shown_as_images_with_reasons_in_their_order(server, ask):
    examples = [Example(photo("city"), 35.0, 135.8), Example(photo("country"), -33.4, -70.7)]
    ask().locate([photo("good")], examples)
    *explained, (_, asked, _, _) = server.requests
    assert [name for name, *_ in explained] in (["city", "country"], ["country", "city"])
    system, *shown, last = asked["messages"]
    assert system["role"] == "system"
    assert [turn["role"] for turn in shown] == 2 * ["user", "assistant"]
    assert last["content"][0]["type"] == "image_url"
    for example, name, told in zip(examples, ("city", "country"), shown[1::2], strict=True):
        said = json.loads(told["content"])
        assert said["clues"] == [f"all is {name}"]
        place = said["hypotheses"][0]
        assert (place["lat"], place["lon"]) == (example.lat, example.lon)
    ask().locate([photo("city")], examples)
    assert len(server.requests) == 4, "reasons are asked for once"
    ask(explain_examples=False).locate([photo("country")], examples)
    assert "clues" not in server.requests[-1][1]["messages"][2]["content"]


def test_places_in_tags_are_not_sent(server, ask, tmp_path):
    tags = Image.Exif()
    tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    photo("good").save(tmp_path / "tagged.jpg", exif=tags)
    with Image.open(tmp_path / "tagged.jpg") as tagged:
        assert tagged.getexif().get_ifd(0x8825)
    ask().locate([tmp_path / "tagged.jpg"], [])
    assert "exif" not in server.requests[0][3]


def test_costs_are_counted_before_anything_is_asked(server, ask):
    priced = {"usd_per_million": (3.0, 15.0), "settings": {"max_tokens": 400}}
    photos = [photo("good"), photo("busy"), photo("good")]
    cost = ask(priced).cost(photos)
    assert (cost.questions, cost.known) == (2, 0), "the same photo is asked for once"
    assert cost.output_tokens == 800
    assert cost.usd == pytest.approx((3 * cost.input_tokens + 15 * 800) / 1e6)
    with pytest.raises(UsageError, match=r"expected at most 0\.00 USD, of which 0\.00 are spent"):
        ask(priced, budget_usd=0.001).locate(photos, [])
    assert not server.requests
    locator = ask(priced, budget_usd=cost.usd + 1e-9)
    locator.locate(photos, [])
    assert locator.cost(photos).usd == 0
    with pytest.raises(UsageError, match=r"of which 0\.01 are spent"):
        locator.locate([photo("city")], [])
    with pytest.raises(ValueError, match="expected the price"):
        ask(budget_usd=1.0)
    with pytest.raises(ValueError, match="expected max_tokens or max_completion_tokens"):
        ask({"settings": {}}).cost(photos)


@dataclass(frozen=True, eq=False)
class Interrupted(EndpointModel):
    """Is interrupted, as by Ctrl-C, at its third question."""

    asked: list = field(default_factory=list)

    def ask(self, turns):
        self.asked.append(turns)
        if len(self.asked) == 3:
            interrupt_main()
            time.sleep(0.5)
        return super().ask(turns)


@pytest.fixture
def interruptible():
    """Take interrupts, which a shell bars from what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_loses_nothing(server, ask, tmp_path):
    """What was asked is waited for; a run again asks the rest."""
    names, path = ["good", "city", "country", "busy"], tmp_path / "answers.jsonl"
    one, photos = {"at_once": 1}, [photo(name) for name in names]
    with pytest.raises(KeyboardInterrupt):
        ask(one, kind=Interrupted).locate(photos, [])
    assert len(lines(path)) == 3
    with path.open("a") as stream:
        stream.write('{"key": "torn')  # killed while it wrote
    for _ in range(2):
        assert all(prediction.located for prediction in ask(one).locate(photos, []))
    assert server.tries == {"good": 1, "city": 1, "country": 1, "busy": 2}, "busy is tried twice"


def test_what_fails_for_all_stops_the_run(server, ask, tmp_path):
    with pytest.raises(UsageError, match=r"does not take questions for 'any'.*ICGEO_TEST_KEY"):
        ask().locate([photo("forbidden")], [])
    assert not lines(tmp_path / "answers.jsonl")
    nobody = EndpointModel("any", "http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(UsageError, match=r"no server answers at http://127\.0\.0\.1:9/v1"):
        LanguageLocator(nobody, tmp_path / "none.jsonl").locate([photo("good")], [])


def test_openai_itself_needs_a_key(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="environment variable OPENAI_API_KEY, got none"):
        LanguageLocator(EndpointModel("any"), tmp_path / "a.jsonl").locate([photo("good")], [])


def test_what_failed_is_asked_again_on_demand_only(server, ask):
    for options, tries in (({}, 1), ({}, 1), ({"ask_again": True}, 2)):
        ask(**options).locate([photo("nonsense"), photo("good")], [])
        assert (server.tries["nonsense"], server.tries["good"]) == (tries, 1)


def test_other_settings_other_examples_and_other_photos_are_other_questions(server, ask):
    locate = partial(ask(explain_examples=False).locate, [photo("good")])
    locate([])
    locate([Example(photo("city"), 35.0, 135.8)])
    locate([Example(photo("city"), 35.0, 135.9)])
    ask({"settings": {"max_tokens": 7}}).locate([photo("good")], [])
    ask().locate([photo("good", (64, 32))], [])
    assert server.tries["good"] == 5


def test_hypotheses_become_a_mixture_of_vmf():
    """Half of the mass within the radius that is said, by drawing from it (scipy's quantiles)."""
    hypotheses, confidence, reason = read_reply(Reply(json.dumps(GOOD)))
    assert (confidence, reason) == (0.9, None)
    density = mixture(hypotheses, confidence)
    paris = Example(photo("good"), 48.858, 2.294)
    near = (
        distance_km(
            density.sample(20_000, torch.Generator().manual_seed(0)), [paris.lat, paris.lon]
        )
        < 300
    )
    assert near.double().mean().item() == pytest.approx(0.9 * 0.8 + 0.1 * 0.0006, abs=0.01)
    assert density.mass.sum().item() == pytest.approx(1)
    wide, _, _ = read_reply(Reply('{"lat": 10, "lon": 20, "radius_km": 800}'))
    places = mixture(wide, 1.0).sample(20_000, torch.Generator().manual_seed(0))
    within = (distance_km(places, [10.0, 20.0]) < 800).double().mean().item()
    assert within == pytest.approx(0.5 * 0.98, abs=0.012)


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({"lat": "48.9° N", "lon": "2,3 or so", "city": "Lyon"}, (45.75, 4.85)),
        ({"lat": "33.9° S", "lon": "151.2 E"}, (-33.9, 151.2)),
        ({"lat": "\u221233.9", "lon": -208.8}, (-33.9, 151.2)),
        ({"lat": 91, "lon": 0, "country": "Japan"}, (35.7, 136.4)),
        ({"latitude": 1, "city": "Springfield", "region": "Illinois"}, (39.8, -89.64)),
        ({"city": "Paris", "region": "Texas", "country": "USA"}, (33.66, -95.56)),
        ({"city": "M\u00fcnchen"}, (48.14, 11.58)),
        ({"city": "Munich", "country": "Deutschland?"}, (48.14, 11.58)),
    ],
)
def test_names_stand_in_for_coordinates(said, place):
    """Places by an atlas, to a tenth of a degree, of Japan to one."""
    (found,), _, reason = read_reply(Reply(json.dumps({"hypotheses": [said]})))
    assert reason is None
    assert distance_km([found.lat, found.lon], [*place]).item() < (
        15 if "Japan" not in str(said) else 120
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nonsense: no JSON object"),
        ('{"hypotheses": []}', "nonsense: no known place"),
        ('{"hypotheses": [{"lat": NaN, "lon": Infinity}]}', "nonsense: no known place"),
        ('{"hypotheses": [{"city": "Nowhere-on-Sea", "weight": 1}]}', "nonsense: no known place"),
        ('{"hypotheses": [{"city": "Rome", "weight": 0}]}', "nonsense: no known place"),
        ("As an AI I do not locate photos.", "refused: As an AI"),
        ("I am unable to determine where this is.", "refused: I am unable"),
        ("[1, 2, 3]" * 3 + "{" * 2000, "nonsense"),
    ],
)
def test_what_names_no_place_has_a_reason(text, reason):
    hypotheses, _, told = read_reply(Reply(text))
    assert hypotheses == ()
    assert told.startswith(reason)


@settings(max_examples=40)
@given(
    st.text(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["hypotheses", "lat", "lon", "weight", "radius_km", "city", "confidence"]
                ),
                inner,
                max_size=4,
            )
        ),
    ).map(json.dumps)
)
def test_any_answer_is_a_density_or_a_reason(text):
    hypotheses, confidence, reason = read_reply(Reply(text))
    assert (reason is None) == bool(hypotheses)
    if hypotheses:
        density = mixture(hypotheses, confidence)
        assert torch.isfinite(density.mass).all()
        assert density.mass.min() > 0, "no place is impossible"


def test_regions_are_averaged_in_levels():
    """Countries are as wide as their area; a capital of millions does not draw all to itself."""
    sizes = [geocode(country=name).kappa for name in ("Luxembourg", "Portugal", "Brazil")]
    assert sizes == sorted(sizes, reverse=True)
    assert geocode(continent="Asia").kappa < geocode(country="Japan").kappa
    argentina = geocode(country="Argentina")
    assert distance_km([argentina.lat, argentina.lon], [-34.6, -58.4]).item() > 500
    assert geocode(country="Atlantis") is None
    assert geocode(city="Kyoto").kappa == kappa_of(10.0)
    assert geocode(region="California").level == "state"
    assert geocode(region="Georgia").level == "country"
    assert geocode(region="Georgia", country="US").level == "state"
