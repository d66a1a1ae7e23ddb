import math

import pytest
import torch

from safety_modules.defences.guard.concept import ConceptHead, masked_mean
from safety_modules.defences.guard.published import FirstTokenHead, PooledQuestionHead
from safety_modules.defences.guard.reading import BLOCKS, REACH, ReadingHead, of_like_length
from safety_modules.errors import ConfigError


def make_head(seed=0, kind=ConceptHead, **changes):
    torch.manual_seed(seed)
    return kind(**{"width": 8, "text_width": 6, "num_types": 3, "num_levels": 4, "attention_heads": 2, **changes})


both = pytest.mark.parametrize("kind", [ConceptHead, ReadingHead])


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


@pytest.mark.parametrize("kind", [ReadingHead, ConceptHead, FirstTokenHead, PooledQuestionHead])
def test_all_heads_have_one_signature_and_one_shape(kind):
    head = make_head(kind=kind)
    out = head(torch.randn(2, 5, 8), torch.randn(4, 8), torch.randn(2, 7, 6), torch.ones(2, 7, dtype=torch.bool))
    assert out.type_logits.shape == (2, 4)
    assert out.level_logits.shape == (2, 4)
    assert out.attention.shape == (2, 3, 5)


@both
def test_attention_is_over_the_patches_and_the_tokens_hold_the_rest(kind):
    head, features = make_head(kind=kind), torch.randn(2, 5, 8)
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


@pytest.mark.parametrize("around", [0, 4])
def test_padding_moves_no_reading(around):
    head, features, tokens = make_head(kind=ReadingHead), torch.randn(1, 5, 8), torch.randn(4, 8)
    question, pads = torch.randn(1, 3, 6), torch.full((1, 4, 6), float("nan"))
    padded = torch.cat([pads[:, :around], question, pads], 1)
    mask = torch.tensor([[False] * around + [True] * 3 + [False] * 4])
    torch.testing.assert_close(head(features, tokens, padded, mask), head(features, tokens, question))


@pytest.mark.parametrize("lengths", [(9, 2, 0), (3, 700, 0, 20, 1100, 16, 650, 33)])
def test_rows_of_a_batch_are_read_alone(lengths):
    head, features, tokens = make_head(kind=ReadingHead), torch.randn(len(lengths), 5, 8), torch.randn(4, 8)
    questions = torch.randn(len(lengths), max(lengths), 6)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    together = head(features, tokens, questions, mask)
    for row, length in enumerate(lengths):
        alone = head(features[row : row + 1], tokens, questions[row : row + 1, :length] if length else None)
        torch.testing.assert_close(together.type_logits[row], alone.type_logits[0])


def test_texts_are_grouped_so_that_little_is_padding():
    lengths = (3, 700, 0, 20, 1100, 16, 650, 33)
    groups = of_like_length(lengths)
    assert sorted(row for rows, _ in groups for row in rows) == [*range(len(lengths))]
    for rows, width in groups:
        assert width == max(16, *(lengths[row] for row in rows))
        assert all(2 * lengths[row] > width or width <= 16 for row in rows)


def test_order_is_read_and_the_mean_is_not():
    question = torch.randn(1, 6, 6)
    for kind, equal in ((ReadingHead, False), (ConceptHead, True)):
        head, features, tokens = make_head(kind=kind), torch.randn(1, 5, 8), torch.randn(4, 8)
        forwards, backwards = (head(features, tokens, q).type_logits for q in (question, question.flip(1)))
        assert torch.allclose(forwards, backwards, atol=1e-6) == equal


def test_a_position_knows_its_neighbours_and_no_further():
    reader, reach = make_head(kind=ReadingHead).reader, BLOCKS * REACH
    text = torch.randn(1, 4 * reach, 6)
    other = text.clone()
    other[:, 0] = -text[:, 0]
    seen = []
    hook = reader.text_norm.register_forward_hook(lambda module, args, output: seen.append(output))
    for one in (text, other):
        reader(one, torch.ones(1, 4 * reach, dtype=torch.bool))
    hook.remove()
    moved = (seen[0] != seen[1]).any(-1)[0]
    assert moved[: reach + 1].all() and not moved[reach + 1 :].any()


def test_one_word_is_found_in_a_text_of_any_length():
    torch.manual_seed(0)
    reader = make_head(kind=ReadingHead, num_types=1, attention_heads=1).reader
    word, rest = torch.randn(1, 1, 6), torch.randn(1, 20, 6).repeat(1, 100, 1)
    with torch.no_grad():  # a query that looks for exactly what stands at the word, as training makes one
        at = reader.text_norm(_read(reader, torch.cat([rest[:, :20], word, rest[:, 20:40]], 1)))[0, 20]
        reader.key.weight.copy_(torch.eye(8))
        reader.queries.copy_(3 * at[None])
        found = [
            reader(torch.cat([rest[:, :20], word, rest[:, 20:length]], 1), torch.ones(1, length + 1).bool())
            for length in (40, 400, 2000)
        ]
    spread = reader.value.weight.norm()
    assert all((one - found[0]).norm() < 0.2 * spread for one in found)


def _read(reader, text):
    x, mask = reader.down(reader.norm(text)), torch.ones(*text.shape[:2], 1, dtype=torch.bool)
    for block in reader.blocks:
        x = block(x, mask)
    return x


@both
def test_without_a_question_the_learned_vector_stands_in(kind):
    head, features, tokens = make_head(kind=kind), torch.randn(2, 5, 8), torch.randn(4, 8)
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


def held_out_accuracy(use_question, kind=ConceptHead, seed=0):
    head, tokens = make_head(seed, kind, width=16, num_types=1), torch.zeros(1, 16)
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


@both
def test_the_head_learns_that_risk_lies_in_image_and_question_together(kind):
    assert held_out_accuracy(True, kind) == 1.0


@both
def test_without_the_question_one_of_two_questions_about_a_picture_is_judged_wrong(kind):
    assert held_out_accuracy(False, kind) == 0.5
