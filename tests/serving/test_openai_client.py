"""The official client, unchanged."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("openai", reason="needs the extra eval")

import openai
from serving_cases import NAME, ask, picture_part, records


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


def test_chat(client):
    attack = records("attack")[0]
    messages = ask(attack)["messages"]
    reply = client.chat.completions.create(model=NAME, messages=messages, max_tokens=24)
    assert reply.choices[0].message.content and reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.safety["type"] == attack.type  # an extension: what the client does not know it keeps
    refuse = {"safety": {"policy": {"rules": {attack.type: {"action": "refuse"}}}}}
    refused = client.chat.completions.create(model=NAME, messages=messages, extra_body=refuse)
    assert refused.choices[0].finish_reason == "content_filter" and refused.choices[0].message.refusal


def test_stream(client):
    asked = {"model": NAME, "messages": ask(records("attack")[0])["messages"], "max_tokens": 24}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens > 0 and chunks[0].safety["flagged"]


def test_moderation(client):
    attack, benign = records("attack")[0], records("benign")[0]
    for record, flagged in ((attack, True), (benign, False)):
        parts = [picture_part(record.image), {"type": "text", "text": record.question}]
        (result,) = client.moderations.create(model=NAME, input=parts).results
        assert result.flagged is flagged and result.category_scores.model_extra.keys() == result.x_thresholds.keys()


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]


def test_errors_are_the_clients_own(client, server):
    with pytest.raises(openai.BadRequestError, match="expected"):
        client.chat.completions.create(model=NAME, messages=[], max_tokens=4)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=ask(records("benign")[0])["messages"])
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(
            model=NAME, messages=ask(records("benign")[0])["messages"], extra_body={"safety": {"mode": "off"}}
        )
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="other", max_retries=0).models.list()
