import math

import pytest
import torch

from safety_modules.defences.guard.concept import ConceptHead, masked_mean
from safety_modules.defences.guard.published import FirstTokenHead, PooledQuestionHead
from safety_modules.errors import ConfigError


def make_head(seed=0, **changes):
    torch.manual_seed(seed)
    return ConceptHead(
        **{"width": 8, "text_width": 6, "num_types": 3, "num_levels": 4, "attention_heads": 2, **changes}
    )


def identity_attention(attention):
    """Attention whose projections are the identity: what it computes can be worked out on paper."""
    width = attention.embed_dim
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(width).repeat(3, 1))
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(torch.eye(width))
        attention.out_proj.bias.zero_()


def test_masked_mean_ignores_what_is_masked_even_nan():
    x = torch.tensor([[[1.0], [3.0], [float("nan")]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    mean, present = masked_mean(x, mask)
    assert mean.tolist() == [[2.0], [0.0]]
    assert present.tolist() == [[True], [False]]


def test_concept_head_with_hand_set_weights_gives_known_numbers():
    head = ConceptHead(width=2, text_width=2, num_types=1, num_levels=2, attention_heads=1)
    identity_attention(head.attention)
    with torch.no_grad():
        head.concepts.copy_(torch.tensor([[1.0, -1.0]]))
        for layer in (head.mix[2], head.clean, head.level):
            layer.weight.zero_()
            layer.bias.zero_()
        head.type_weight.copy_(torch.tensor([[2.0, 0.0]]))
        head.type_bias.fill_(0.5)
        head.clean.weight.copy_(torch.tensor([[0.0, 3.0]]))
        head.level.bias.copy_(torch.tensor([0.25, -0.25]))
    # Query (1, -1). Keys after LayerNorm: token (1, -1), patches (1, -1) and (-1, 1).
    # Scores q.k / sqrt(2): s, s, -s with s = sqrt(2); so the weights are a, a, b.
    out = head(torch.tensor([[[3.0, 1.0], [1.0, 3.0]]]), torch.tensor([[5.0, 1.0]]))
    s = math.sqrt(2)
    a, b = (math.exp(v) / (2 * math.exp(s) + math.exp(-s)) for v in (s, -s))
    assert torch.allclose(out.attention, torch.tensor([[[a, b]]]), atol=1e-4)
    # z = LayerNorm((1, -1) + (2a - b) * (1, -1)) = (1, -1): type logit 2 + 0.5, clean logit -3.
    assert torch.allclose(out.type_logits, torch.tensor([[2.5, -3.0]]), atol=1e-3)
    assert torch.allclose(out.level_logits, torch.tensor([[0.25, -0.25]]))


def test_paper_head_with_hand_set_weights_gives_known_numbers():
    head = FirstTokenHead(2, 2, num_types=1, num_levels=2, attention_heads=1)
    identity_attention(head.attention)
    with torch.no_grad():
        head.types.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.types.bias.copy_(torch.tensor([0.0, 10.0]))
        head.level.weight.zero_()
        head.level.bias.copy_(torch.tensor([1.0, 2.0]))
    question = torch.tensor([[[math.sqrt(2) * math.log(3), 0.0], [9.0, 9.0]]])
    out = head(torch.tensor([[[1.0, 0.0], [0.0, 4.0]]]), torch.tensor([[0.0, 0.0]]), question)
    # Scores log 3, 0 for the patches, 0 for the token: weights 3/5, 1/5, 1/5. Output (0.6, 0.8).
    assert torch.allclose(out.attention, torch.tensor([[[0.6, 0.2]]]))
    assert torch.allclose(out.type_logits, torch.tensor([[0.6, 10.8]]))
    assert torch.allclose(out.level_logits, torch.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize("kind", ["concept", "first_token", "pooled_question"])
def test_both_heads_have_one_signature_and_one_shape(kind):
    if kind == "concept":
        head = make_head()
    else:
        published = {"first_token": FirstTokenHead, "pooled_question": PooledQuestionHead}[kind]
        head = published(8, 6, num_types=3, num_levels=4, attention_heads=2)
    out = head(torch.randn(2, 5, 8), torch.randn(4, 8), torch.randn(2, 7, 6), torch.ones(2, 7, dtype=torch.bool))
    assert out.type_logits.shape == (2, 4)
    assert out.level_logits.shape == (2, 4)
    assert out.attention.shape == (2, 3, 5)


def test_attention_is_over_the_patches_and_the_tokens_hold_the_rest():
    head, features = make_head(), torch.randn(2, 5, 8)
    mass = head(features, torch.randn(4, 8)).attention.sum(-1)
    assert (mass > 0).all() and (mass < 1).all()
    assert torch.allclose(head(features, torch.empty(0, 8)).attention.sum(-1), torch.ones(2, 3))


def test_padding_cannot_change_a_verdict():
    head, features, tokens = make_head(), torch.randn(1, 5, 8), torch.randn(4, 8)
    question = torch.randn(1, 3, 6)
    alone = head(features, tokens, question)
    padded = torch.cat([torch.full((1, 4, 6), float("inf")), question], 1)
    mask = torch.tensor([[False] * 4 + [True] * 3])
    assert torch.equal(head(features, tokens, padded, mask).type_logits, alone.type_logits)


def test_without_a_question_the_learned_vector_stands_in():
    head, features, tokens = make_head(), torch.randn(2, 5, 8), torch.randn(4, 8)
    question, mask = torch.randn(2, 3, 6), torch.tensor([[True] * 3, [False] * 3])
    mixed, none = head(features, tokens, question, mask), head(features, tokens)
    assert torch.allclose(mixed.type_logits[1], none.type_logits[1])
    assert not torch.allclose(mixed.type_logits[0], none.type_logits[0])


def test_a_first_token_query_cannot_hear_the_question():
    head = FirstTokenHead(8, 6, num_types=3, num_levels=4, attention_heads=2)
    features, tokens, question = torch.randn(1, 5, 8), torch.randn(4, 8), torch.randn(1, 3, 6)
    other = torch.cat([question[:, :1], torch.randn(1, 2, 6)], 1)  # same start token, other words
    assert torch.equal(head(features, tokens, question).type_logits, head(features, tokens, other).type_logits)
    pooled = PooledQuestionHead(8, 6, num_types=3, num_levels=4, attention_heads=2)
    assert not torch.equal(pooled(features, tokens, question).type_logits, pooled(features, tokens, other).type_logits)


def test_a_first_token_query_skips_left_padding():
    head = FirstTokenHead(8, 8, num_types=3, num_levels=4, attention_heads=2)
    features, tokens, question = torch.randn(1, 5, 8), torch.randn(4, 8), torch.randn(1, 3, 8)
    padded = torch.cat([torch.zeros(1, 2, 8), question], 1)
    mask = torch.tensor([[False, False, True, True, True]])
    assert torch.equal(head(features, tokens, padded, mask).type_logits, head(features, tokens, question).type_logits)


def test_the_published_head_refuses_an_image_without_text():
    head = PooledQuestionHead(8, 6, num_types=3, num_levels=4, attention_heads=2)
    with pytest.raises(ConfigError, match="expected text features, got None"):
        head(torch.randn(1, 5, 8), torch.randn(4, 8))
    with pytest.raises(ConfigError, match="at least one text position per row"):
        head(torch.randn(1, 5, 8), torch.randn(4, 8), torch.randn(1, 2, 6), torch.zeros(1, 2))


def toy_world(seed):
    """Knife or vegetables, each picture asked about twice: once to cut, once to hurt or paint.

    Risky is knife AND hurt, or vegetables AND paint; either alone is clean. That is XOR: no sum of a
    judgement of the picture and a judgement of the question can tell these apart.
    """
    meaning, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    objects, intentions = torch.randn(2, 16, generator=meaning), torch.randn(2, 6, generator=meaning)
    features, questions, labels = [], [], []
    for thing in (0, 1):
        for place in range(4):
            picture = 0.1 * torch.randn(4, 16, generator=noise)
            picture[place] += objects[thing]
            for intention in (0, 1):
                words = 0.1 * torch.randn(3, 6, generator=noise)
                words[1] += intentions[intention]
                features.append(picture)
                questions.append(words)
                labels.append(0 if thing == intention else 1)  # 0 = risky, 1 = clean
    return torch.stack(features), torch.stack(questions), torch.tensor(labels)


def held_out_accuracy(use_question, seed=0):
    head, tokens = make_head(seed, width=16, num_types=1), torch.zeros(1, 16)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for step in range(100):
        features, questions, labels = toy_world(seed=step)
        logits = head(features, tokens, questions if use_question else None).type_logits
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, questions, labels = toy_world(seed=12345)
    with torch.no_grad():
        logits = head(features, tokens, questions if use_question else None).type_logits
    return float((logits.argmax(-1) == labels).float().mean())


def test_the_concept_head_learns_that_risk_lies_in_image_and_question_together():
    assert held_out_accuracy(use_question=True) == 1.0


def test_without_the_question_one_of_two_questions_about_a_picture_is_judged_wrong():
    assert held_out_accuracy(use_question=False) == 0.5
