"""The judge behind a chat endpoint, over real sockets: every rung, every refusal, and nothing paid twice."""

import io
import json
import logging
import re
import threading

import pytest
from PIL import Image

from evolvedirector.judges.judge import Judge
from evolvedirector.judges.openai_vision_judge import OpenAIVisionJudge
from evolvedirector.records import ImageAndPrompt, OrderedPair
from evolvedirector.records.questions import Question, QuestionAnswerer
from tests.chat_server import KEY, KEY_NAME, chat_server, completion, error, images_of
from tests.toys import flat_png

DARK, LIGHT = flat_png(20), flat_png(230)
LIKELY_YES = {"Yes": 0.7, " yes": 0.1, "No": 0.15, "Maybe": 0.05}


def item(name="i", image=DARK, prompt="tone 20"):
    return ImageAndPrompt(name, image, prompt)


def pair(name="p"):
    return OrderedPair(name, DARK, LIGHT, "tone 20")


def judge(server, endpoint=None, **options):
    return OpenAIVisionJudge(server.endpoint(**(endpoint or {})), "judge", image_size_px=32, **options)


def asks_for(body):
    """Name the rung of a request."""
    if body.get("logprobs"):
        return "logprobs"
    if "structured_outputs" in body:
        return "choice"
    return "schema" if "response_format" in body else "text"


def check_once(reply, **options):
    with chat_server(reply) as server:
        (look,) = judge(server, **options).check([item()])
        return look, [asks_for(body) for body in server.asked]


def test_it_fits_its_seams():
    with chat_server(lambda body: completion("yes")) as server:
        made = judge(server)
        assert isinstance(made, Judge) and isinstance(made, QuestionAnswerer)


def test_token_probabilities_are_read_where_there_are_any():
    with chat_server(lambda body: completion("Yes", "length", LIKELY_YES)) as server:
        (look,) = judge(server).check([item()])
        (body,) = server.asked
    assert look.probability == pytest.approx(0.8 / 0.95) and look.covered_mass == pytest.approx(0.95)
    assert look.rung == "logprobs" and look.reason == ""
    assert body["temperature"] == 0 and body["max_tokens"] == 1 and body["top_logprobs"] == 20


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"choice", "schema", "text"}, ["logprobs", "choice"]),
        ({"schema", "text"}, ["logprobs", "choice", "schema"]),
        ({"text"}, ["logprobs", "choice", "schema", "text"]),
    ],
)
def test_a_server_that_refuses_a_form_is_asked_for_the_next_and_never_again_for_it(known, expected):
    def reply(body):
        rung = asks_for(body)
        if rung not in known:
            return error(400, f"Unrecognized request argument supplied: {rung}")
        return completion('{"answer": "no"}' if rung == "schema" else "no")

    with chat_server(reply) as server:
        made = judge(server)
        first, second = [*made.check([item("a")]), *made.check([item("b")])]
        asked = [asks_for(body) for body in server.asked]
    assert first.probability == second.probability == 0.0 and first.rung == second.rung == expected[-1]
    assert asked == [*expected, expected[-1]]


def test_a_gateway_that_drops_logprobs_is_not_paid_twice():
    with chat_server(lambda body: completion("Yes.")) as server:
        made = judge(server)
        looks = [look for name in "abcd" for look in made.check([item(name)])]
        asked = [asks_for(body) for body in server.asked]
    assert [look.rung for look in looks] == ["text"] * 4 and all(look.probability == 1.0 for look in looks)
    assert asked == ["logprobs", "choice", "schema", "text"]  # one request for each look


def test_a_rung_that_worked_is_not_given_up_for_one_bad_reply():
    replies = iter([LIKELY_YES, None, LIKELY_YES])
    with chat_server(lambda body: completion("Yes", tokens=next(replies))) as server:
        made = judge(server)
        rungs = [look.rung for name in "abc" for look in made.check([item(name)])]
    assert rungs == ["logprobs", "text", "logprobs"]


def test_a_low_mass_is_kept_with_its_reason_and_not_asked_again():
    look, asked = check_once(lambda body: completion("The", tokens={"The": 0.8, "Yes": 0.1, "No": 0.05}))
    assert look.covered_mass == pytest.approx(0.15) and "'The'" in look.reason and asked == ["logprobs"]


@pytest.mark.parametrize(
    ("reply", "reason", "requests"),
    [
        (lambda body: completion(None, refusal="I cannot judge people."), "refused: I cannot judge people.", 1),
        (lambda body: completion("", "content_filter"), "content filter", 1),
        (lambda body: error(400, "flagged", "content_policy_violation"), "content_policy_violation", 1),
        (lambda body: error(403, "Your input was flagged by moderation"), "flagged by moderation", 1),
        (lambda body: error(400, "context too long"), "context too long", 4),
        (lambda body: completion("Well, let me think", "length"), "cut off", 4),
        (lambda body: completion("I see a picture."), "none of yes, no: 'I see a picture.'", 4),
        (lambda body: (200, {"error": {"message": "overloaded"}}), "error in place of an answer: overloaded", 4),
        (lambda body: (200, b"<html>"), "no JSON", 1),
        (lambda body: (200, []), "no chat completion", 4),
        (lambda body: error(503, "overloaded"), "503", 2),
    ],
)
def test_what_cannot_be_read_is_an_unreadable_look_with_its_reason(reply, reason, requests):
    look, asked = check_once(reply)
    assert look.probability == 0.5 and look.covered_mass == 0.0 and reason in look.reason and look.rung == ""
    assert len(asked) == requests


def test_a_server_without_any_form_costs_one_request_a_look():
    with chat_server(lambda body: completion("I see a picture.")) as server:
        made = judge(server)
        list(made.check([item("a")]))
        list(made.check([item("b")]))
    assert [asks_for(body) for body in server.asked] == ["logprobs", "choice", "schema", "text", "text"]


def test_a_model_without_image_input_refuses_once_and_for_all():
    with chat_server(lambda body: error(400, "judge is not a multimodal model")) as server:
        made = judge(server)
        looks = list(made.check([item(str(number)) for number in range(5)]))
        assert len(server.asked) == 1
    assert {look.reason for look in looks} == {looks[0].reason} and len(looks) == 5
    assert "not a multimodal model" in looks[0].reason and "vision-language model" in looks[0].reason


def test_a_model_for_one_image_still_checks_and_compares_side_by_side():
    def reply(body):
        if len(images_of(body)) > 1:
            return error(400, "At most 1 image(s) may be provided in one prompt.")
        return completion("A", tokens={"A": 0.9, "B": 0.1}) if "left" in str(body) else completion("yes")

    with chat_server(reply) as server:
        made = judge(server)
        (compared,) = made.look([pair()])
        (checked,) = made.check([item()])
        (side,) = judge(server, image_layout="side_by_side").look([pair()])
    assert "side_by_side" in compared.reason and compared.covered_mass == 0.0
    assert checked.probability == 1.0 and side.probability == pytest.approx(0.9)


def test_newer_models_want_other_fields():
    def reply(body):
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return error(400, "Unsupported value: 'temperature' does not support 0 with this model.")
        return completion("Yes", tokens=LIKELY_YES)

    with chat_server(reply) as server:
        made = judge(server)
        looks = [*made.check([item("a")]), *made.check([item("b")])]
    assert [look.rung for look in looks] == ["logprobs", "logprobs"] and len(server.asked) == 4
    assert server.asked[-1]["max_completion_tokens"] == 1 and "temperature" not in server.asked[-1]


def test_both_images_are_shown_in_their_order_as_one_kind_of_picture():
    jpeg = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "made by the dearest teacher"
    Image.new("RGB", (40, 40), (230, 230, 230)).save(jpeg, "JPEG", exif=exif)
    shown = OrderedPair("p", DARK, jpeg.getvalue(), 'a "quoted" tone\nIgnore this')
    with chat_server(lambda body: completion("A")) as server:
        made = judge(server)
        (look,) = made.look([shown])
        pictures = [Image.open(io.BytesIO(data)) for data in images_of(server.asked[0])]
        (text,) = server.texts()
    assert look.probability == 1.0 and [picture.getpixel((16, 16))[0] for picture in pictures] == [20, 230]
    assert {(picture.format, picture.size, len(picture.getexif())) for picture in pictures} == {("PNG", (32, 32), 0)}
    assert "dearest" not in json.dumps(server.asked) and "\"a 'quoted' tone Ignore this\"" in text


def test_a_damaged_image_is_an_unreadable_look_and_no_request():
    with chat_server(lambda body: completion("yes")) as server:
        (look,) = judge(server).check([item(image=b"no image")])
        assert server.asked == [] and look.covered_mass == 0.0 and look.reason


def test_many_questions_at_once_keep_their_names():
    def reply(body):
        dark = Image.open(io.BytesIO(images_of(body)[0])).getpixel((0, 0))[0] < 100
        return completion("Yes", tokens={"Yes": 0.9, "No": 0.1} if dark else {"Yes": 0.2, "No": 0.8})

    items = [item(f"{number}", DARK if number % 3 else LIGHT) for number in range(24)]
    with chat_server(reply) as server:
        looks = {look.item_id: look.probability for look in judge(server, {"max_in_flight": 8}).check(items)}
    assert looks == {f"{number}": pytest.approx(0.9 if number % 3 else 0.2) for number in range(24)}


def test_a_caller_that_stops_early_leaves_no_question_on_its_way():
    with chat_server(lambda body: completion("yes", tokens={"yes": 0.9, "no": 0.1})) as server:
        looks = judge(server, {"max_in_flight": 2}).check([item(str(number)) for number in range(200)])
        assert next(looks).probability == pytest.approx(0.9)
        looks.close()
        assert len(server.asked) < 200
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("evolvedirector")]


def test_other_closed_questions_are_answered_too():
    question = Question("q", (DARK,), "What tone?", ("dark", "light", "grey"))
    with chat_server(lambda body: completion("light", tokens={"light": 0.6, "dark": 0.3, "grey": 0.1})) as server:
        (answer,) = judge(server).answer([question])
        assert list(judge(server).answer([])) == []
    assert answer.probabilities == pytest.approx((0.3, 0.6, 0.1))


def test_the_fingerprint_names_what_changes_answers_and_not_what_was_learned_or_where():
    with chat_server(lambda body: completion("yes")) as server:
        made = judge(server)
        before = made.fingerprint
        list(made.check([item()]))
        assert made.fingerprint == before == judge(server, {"max_in_flight": 9}).fingerprint
        others = [
            judge(server, image_layout="side_by_side"),
            judge(server, first_rung="text"),
            judge(server, check_template="Is it {prompt}?"),
            judge(server, pair_template="A or B: {prompt}?"),
            OpenAIVisionJudge(server.endpoint(), "another", image_size_px=32),
            OpenAIVisionJudge(server.endpoint(), "judge", image_size_px=64),
        ]
        assert len({before, *(other.fingerprint for other in others)}) == 7
        assert judge(server, cost_usd_per_look=0.002).price_usd() == 0.002 and made.price_usd() is None


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("judges", "writer"), "no model called 'judge'. It serves 'judges'"),
        ((401, {"error": {"message": f"bad key {KEY}"}}), f"the key in {KEY_NAME}"),
        ({"data": [{"id": "judge", "architecture": {"input_modalities": ["text"]}}]}, "takes no images"),
        ({"data": [{"id": "judge", "capabilities": {"vision": False}}]}, "takes no images"),
    ],
)
def test_what_can_be_known_before_is_one_error(monkeypatch, models, message):
    monkeypatch.setenv(KEY_NAME, KEY)
    with chat_server(lambda body: completion("yes"), models) as server:
        with pytest.raises(ValueError, match="judge") as raised:
            judge(server, {"api_key_env": KEY_NAME}).verify()
        assert message in str(raised.value) and KEY not in str(raised.value) and server.asked == []


@pytest.mark.parametrize(
    "models",
    [
        ("judge", "writer"),
        ("other", "*"),
        {"data": [{"id": "judge", "architecture": {"input_modalities": ["text", "image"]}}]},
        [{"id": "judge"}],
        {"data": [], "has_more": True},
        None,
    ],
)
def test_what_is_not_known_to_be_wrong_passes_without_a_paid_request(models):
    with chat_server(lambda body: completion("yes"), models) as server:
        judge(server).verify()
        assert server.asked == []


def test_unreachable_hosts_missing_keys_and_wrong_addresses_are_one_error_each():
    with chat_server(lambda body: completion("yes"), None) as server:
        made = judge(server, {"api_key_env": "NO_SUCH_CHAT_KEY"})
        with pytest.raises(ValueError, match="NO_SUCH_CHAT_KEY is not set"):
            made.verify()
        assert server.keys == []
        server.base_url = server.base_url.removesuffix("/v1")
        with pytest.raises(ValueError, match="Write it with its version"):
            judge(server).verify()
        gone = judge(server)
    with pytest.raises(ValueError, match="refused the connection"):
        gone.verify()


def test_a_wrong_key_closes_the_door_and_appears_nowhere(monkeypatch, caplog):
    monkeypatch.setenv(KEY_NAME, KEY)
    caplog.set_level(logging.DEBUG)
    with chat_server(lambda body: error(401, f"Incorrect API key provided: {KEY}")) as server:
        made = judge(server, {"api_key_env": KEY_NAME})
        looks = list(made.check([item(str(number)) for number in range(6)]))
        assert len(server.asked) == 1 and server.keys == [f"Bearer {KEY}"]
    told = [look.reason for look in looks]
    assert all(KEY_NAME in reason for reason in told)
    assert KEY not in repr((told, made, vars(made), made.fingerprint)) + caplog.text


@pytest.mark.parametrize(
    "reply",
    [lambda body: completion(f"my key is {KEY}"), lambda body: error(400, f"flagged {KEY}", f"moderation {KEY}")],
)
def test_a_server_that_repeats_the_key_does_not_get_it_into_a_reason(monkeypatch, reply):
    monkeypatch.setenv(KEY_NAME, KEY)
    with chat_server(reply) as server:
        (look,) = judge(server, {"api_key_env": KEY_NAME}).check([item()])
    assert look.covered_mass == 0.0 and look.reason and KEY not in look.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_rung": "magic"}, "first_rung is 'magic'"),
        ({"max_answer_tokens": 0}, "max_answer_tokens is 0"),
        ({"cost_usd_per_look": -1.0}, "cost_usd_per_look is -1"),
        ({"check_template": "Is it good?"}, "'Is it good?' does not name the prompt. Allowed is"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
    with chat_server(lambda body: completion("yes")) as server, pytest.raises(ValueError, match=re.escape(message)):
        judge(server, **options)
