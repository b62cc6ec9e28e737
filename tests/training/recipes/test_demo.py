"""The recipe of the demo models, on data made here."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.models.spectral_vocoder import slaney_filters
from clip2clap.models.yamnet_clap import (
    YamnetClapConfig,
    YamnetClapModel,
    YamnetFeatureExtractor,
    YamnetModel,
)
from clip2clap.training.recipes.demo import audioset, generator, image_decoder
from clip2clap.training.recipes.demo.audio_bank import HOP, log_mel
from clip2clap.training.recipes.demo.data import DemoData, fit_length, split_rows
from clip2clap.training.recipes.demo.diffusion import (
    ConditionalUNet,
    ConditionedLatents,
    build_scheduler,
    diffusion_loss,
    predict_clean,
)
from clip2clap.training.recipes.demo.generator import (
    IMAGES,
    add_images,
    build_unet,
    train_generator,
    tune_generator,
)
from clip2clap.training.recipes.demo.loop import Schedule, Stage
from clip2clap.training.recipes.demo.pretrained import yamnet
from clip2clap.training.recipes.demo.similarity import max_cross_correlation
from clip2clap.training.recipes.demo.spaces import (
    Space,
    TypicalFeatures,
    fit_clap_space,
    split_classifier,
)
from clip2clap.training.recipes.demo.text import text_targets
from clip2clap.training.recipes.demo.words import (
    CLASSES,
    INNER_NAMES,
    audio_phrases,
    image_phrases,
    members,
)


def test_splits_hold_the_same_share_of_every_class():
    keys = ["dog"] * 100 + ["cat"] * 50 + ["rare"] * 2
    splits = np.array(split_rows(keys, validation=0.1, test=0.2))
    counts = {
        name: [int((splits[np.array(keys) == name] == split).sum()) for split in ("train", "test")]
        for name in ("dog", "cat", "rare")
    }
    assert counts == {"dog": [70, 20], "cat": [35, 10], "rare": [2, 0]}


def test_splits_are_the_same_in_every_run():
    keys = list("abcab" * 20)
    assert split_rows(keys, validation=0.1, test=0.1) == split_rows(keys, validation=0.1, test=0.1)


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No kinds\.csv") as refused:
        DemoData(tmp_path)
    assert refused.value.param == "data"


def test_short_audio_is_repeated_and_long_audio_cut():
    assert fit_length(np.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fit_length(np.arange(9), 3, offset=8).tolist() == [6, 7, 8]


def test_every_class_has_words_of_each_class():
    for words in CLASSES.values():
        assert all(words[column] for column in ("names", "captions", "unseen", "imagenet"))


def test_texts_for_evaluation_are_not_trained_on():
    trained = {text for name in CLASSES for text in (*image_phrases(name), *audio_phrases(name))}
    assert not trained & {text for words in CLASSES.values() for text in words["unseen"]}


def test_a_split_classifier_ranks_as_the_whole_one_does():
    torch.manual_seed(0)
    # Fewer classes than dimensions, so that nothing need be lost.
    classifier = nn.Linear(600, 40)
    features = torch.rand(2000, 600)
    image, classes = split_classifier(classifier, features)
    assert image.shape == (41, 600)
    torch.testing.assert_close(classes.norm(dim=1), torch.ones(40))
    split = (features @ image.T @ classes.T).argmax(dim=1)
    assert (split == classifier(features).argmax(dim=1)).float().mean() > 0.97


def test_every_class_has_classes_of_imagenet_and_none_has_anothers():
    below = [number for words in CLASSES.values() for number in members(words["imagenet"])]
    assert len(below) == len(set(below))
    assert all(0 <= n < 1000 for text in INNER_NAMES.values() for n in (*members(text), *below))
    assert members("3-5 9") == [3, 4, 5, 9]


def test_typical_features_of_a_class_without_images_are_like_its_images():
    torch.manual_seed(0)
    means, number = 3 + 0.2 * torch.randn(10, 40), torch.arange(10).repeat(200)
    images = means[number] + 0.5 * torch.randn(2000, 40)
    inverse = torch.linalg.inv(torch.cov((images - means[number]).T))
    classifier = nn.Linear(40, 10)
    classifier.load_state_dict(
        {"weight": means @ inverse, "bias": -0.5 * (means @ inverse * means).sum(dim=1)}
    )
    typical = TypicalFeatures(classifier.weight.detach(), images[number < 9], number[number < 9])
    drawn = typical.draw(torch.full((200,), 9), torch.Generator().manual_seed(0))
    directions = F.normalize(means - means.mean(dim=0), dim=1)
    cosines = directions @ F.normalize(drawn.mean(dim=0) - means.mean(dim=0), dim=0)
    assert cosines[9] > 0.3 + cosines[:9].max()


def test_text_targets_are_the_labels_vectors_or_means_of_similar_ones():
    space = Space(nn.Identity(), torch.eye(3), logit_scale=1.0)
    texts = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.7, 0.7, 0]]), dim=1)
    targets = text_targets(space, torch.tensor([0, 1, -1]), texts)
    torch.testing.assert_close(targets.embeds[:2].float(), torch.eye(3)[:2])
    torch.testing.assert_close(
        targets.embeds[2].float(), torch.tensor([0.5**0.5, 0.5**0.5, 0]), atol=1e-3, rtol=0
    )
    on_target = torch.eye(3)[:2]
    assert targets.loss(on_target, torch.arange(2)) < targets.loss(
        on_target.flip(0), torch.arange(2)
    )


def test_log_mel_peaks_at_the_pitch_of_a_tone():
    time = torch.arange(16_000) / 16_000
    mels = log_mel(torch.sin(2 * torch.pi * 1000 * time).unsqueeze(0))
    assert mels.shape == (1, 16_000 // HOP, 64)
    centers = slaney_filters(1024, 64, 16_000).argmax(dim=0) * 16_000 / 1024
    assert abs(centers[mels[0, 50].argmax()] - 1000) < 60


class Truth(nn.Module):
    """UNet that predicts the true velocities of latents of 0.5, and keeps the signal levels."""

    def forward(self, noisy, timesteps, **_):
        self.signal = signal = build_scheduler().alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
        noise = (noisy - signal * 0.5) / (1 - signal**2).sqrt()
        return (signal * noise - (1 - signal**2).sqrt() * 0.5,)


def test_the_diffusion_loss_is_least_for_the_true_velocities():
    latents = torch.full((16, 2, 8, 8), 0.5)
    vectors = torch.zeros(16, 4)
    unets: list[Any] = [Truth(), lambda noisy, *_, **__: (0 * noisy,)]
    losses = [
        diffusion_loss(model, latents, vectors, torch.Generator().manual_seed(0)).item()
        for model in unets
    ]
    assert losses[0] < 1e-4 < 0.1 < losses[1]


@pytest.mark.parametrize("start", [0, 900])
def test_errors_at_the_highest_and_the_lowest_noise_levels_weigh_alike(start):
    latents, vectors = torch.full((2000, 2, 2, 2), 0.5), torch.zeros(2000, 4)

    def wrong(noisy, timesteps, **named):
        (velocities,) = Truth()(noisy, timesteps, **named)
        error = (start <= timesteps) & (timesteps < start + 100)
        return (velocities + error.view(-1, 1, 1, 1),)

    unet: Any = wrong
    loss = diffusion_loss(unet, latents, vectors, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(0.1, abs=0.03)


def test_true_velocities_predict_the_clean_latents_at_any_noise_level():
    latents = torch.full((64, 2, 8, 8), 0.5)
    truth: Any = Truth()
    predicted = predict_clean(truth, latents, torch.zeros(64, 4), torch.Generator().manual_seed(0))
    signal = truth.signal
    torch.testing.assert_close(predicted, latents, atol=1e-3, rtol=0)
    assert signal.shape == (64, 1, 1, 1)
    # Most noise levels are high, some are low.
    assert signal.min() < 0.1
    assert signal.median() < 0.5 < signal.max()


def test_a_share_of_the_conditions_is_left_out():
    model = ConditionalUNet(build_unet(), 512)
    vectors = torch.randn(400, 512)
    kept = model.drop_condition(vectors, 0.25, torch.Generator().manual_seed(0))
    left_out = (kept == model.negative_embeds).all(dim=1)
    assert 60 < left_out.sum() < 140
    # To the last bit, by which the tuning loss tells them from those that are left out.
    assert torch.equal(kept[~left_out], F.normalize(vectors, dim=1)[~left_out])


def test_the_generator_is_tuned_on_images_of_the_audios_class_and_more_on_hard_classes():
    labels = torch.tensor([0, 0, 1])
    clips = ConditionedLatents(
        torch.zeros(3, 1, 1, 1, 1), torch.zeros(3, 2, 4), torch.zeros(3, 4), torch.ones(3)
    )
    images = torch.stack([torch.full((4,), value) for value in (1.0, 1.0, 2.0, 2.0)])
    tuned = add_images(clips, labels, (images, torch.tensor([0, 0, 1, 1])), ["dog", "sea"])
    added = tuned.embeds[:, 2:].mean(dim=(1, 2))
    assert tuned.embeds.shape[1] == 2 + IMAGES
    assert added.tolist() == [1, 1, 2]
    assert tuned.weights[:2].sum() < tuned.weights[2]


def test_tuning_ends_halfway_and_leaves_the_trained_generator_as_it_was(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(generator, "BATCH", 2)
    start = ConditionalUNet(build_unet(), 512)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    clips = ConditionedLatents(
        torch.randn(2, 1, 24, 64, 8), torch.randn(2, 1, 512), torch.randn(2, 512), torch.ones(2)
    )
    trained, tuned = (
        train(clips, stage=Stage(name, tmp_path, Schedule(1, 1e-3, ema_decay=0.5)), start=start)
        for name, train in (("trained", train_generator), ("tuned", tune_generator))
    )
    after = trained.state_dict()
    for name, value in tuned.state_dict().items():
        torch.testing.assert_close(value, (before[name] + after[name]) / 2)
        assert torch.equal(start.state_dict()[name], before[name])
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_new_unet_projects_unit_norm_conditions_to_unit_scale():
    model = ConditionalUNet(build_unet(), 512)
    projection: Any = model.unet.class_embedding
    with torch.no_grad():
        projected = projection(F.normalize(torch.randn(16, 512), dim=1))
    # Without the scaled weights it is 0.02.
    assert 0.3 < projected.std() < 1.5


@pytest.mark.parametrize("build", [image_decoder.build_unet, build_unet])
def test_no_norm_takes_a_channels_own_mean_away(build):
    """The color of an image and the level of audio are means over all places."""
    norms = [layer for layer in build().modules() if isinstance(layer, nn.GroupNorm)]
    assert norms
    for norm in norms:
        hidden = torch.randn(1, norm.num_channels, 4, 4)
        brighter = hidden.clone()
        brighter[:, 0] += 1
        assert (norm(brighter) - norm(hidden))[:, 0].mean() > 0.1


def test_colors_weigh_more_than_details():
    real = torch.zeros(1, 3, 8, 8)
    red = torch.tensor([0.1, -0.05, -0.05]).view(1, 3, 1, 1).expand_as(real)
    gray = red.abs().mean().expand_as(real)
    checked = gray * (torch.arange(8) % 2 * 2 - 1)
    distances = [image_decoder.pixel_distance(x, real).item() for x in (red, gray, checked)]
    assert distances[0] > 1.5 * distances[1] > 2 * distances[2] > 0


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_killed_stage_ends_with_the_weights_of_an_unkilled_one(tmp_path, ema_decay):
    class Killed(Exception):
        pass

    calls: list[int] = []

    def step(model, generator, *, die_at=None):
        calls.append(1)
        if len(calls) == die_at:
            raise Killed
        inputs = torch.randn(8, 3, generator=generator)
        return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    def model():
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1), nn.Dropout(0.1))

    schedule = Schedule(steps=30, learning_rate=1e-2, warmup=5, ema_decay=ema_decay)
    calls.clear()
    whole = Stage("whole", tmp_path, schedule, save_every_s=0).train(model, step)
    calls.clear()
    stage = Stage("killed", tmp_path, schedule, save_every_s=0)
    with pytest.raises(Killed):
        stage.train(model, lambda m, g: step(m, g, die_at=17))
    resumed = stage.train(model, step)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(calls) == 17 + 30 - 16


def test_without_a_decay_all_steps_count_similarity_at_a_constant_rate(tmp_path):
    passed: list[torch.Tensor] = []

    def step(model, generator):
        passed.append(model.weight.detach().clone())
        return (model(torch.randn(8, 3, generator=generator)) - 1).square().mean()

    schedule = Schedule(steps=20, learning_rate=1e-2, warmup=5, ema_decay=None)
    model = nn.Linear(3, 1)
    averaged = Stage("averaged", tmp_path, schedule).train(lambda: model, step)
    assert isinstance(averaged, nn.Linear)
    # A step sees the weights that the step before left.
    weights = torch.stack([*passed[1:], model.weight.detach()])
    assert torch.allclose(averaged.weight, weights.mean(dim=0), atol=1e-6)
    assert schedule.rate(4) == schedule.rate(19) == 1 > schedule.rate(3)


def test_a_delayed_signal_correlates_with_itself_and_not_with_another():
    torch.manual_seed(0)
    known = torch.randn(3, 2, 400)
    known[:, :, 300:] = 0
    delayed = 0.1 * known[1:2].roll(50, dims=2) + 7
    similarity = max_cross_correlation(delayed, known)
    assert similarity.shape == (1, 3)
    assert similarity[0, 1] == pytest.approx(1, abs=0.02)
    assert similarity[0, [0, 2]].max() < 0.3


@pytest.fixture
def tiny_clap():
    torch.manual_seed(0)
    text = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    return YamnetClapModel(YamnetClapConfig(text_config=text, audio_width=0.1, projection_dim=6))


def test_features_depend_neither_on_the_level_nor_on_silence_around():
    extract = YamnetFeatureExtractor()
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    noise[[0, -1]] = 0.1
    padded = np.pad(noise, (500, 4000))
    loud, quiet, late = extract([noise, 0.1 * noise, padded])["input_features"]
    torch.testing.assert_close(quiet, loud, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(late, loud)


def test_features_peak_at_the_pitch_of_a_tone():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    features = YamnetFeatureExtractor()(tone)["input_features"]
    assert features.shape == (1, 498, 64)
    # YAMNet's bands are evenly spaced from 125 to 7,500 Hz on the scale of 1127 ln(1 + f / 700).
    low, pitch, high = (1127 * np.log1p(hertz / 700) for hertz in (125, 1000, 7500))
    assert int(features[0, 50].argmax()) == round(65 * (pitch - low) / (high - low)) - 1


@pytest.fixture
def random_yamnet(tmp_path):
    """Write a random YAMNet as TensorFlow's variables; returns it and its last layer."""
    torch.manual_seed(0)
    model = YamnetModel(YamnetClapConfig()).eval()
    classifier = torch.nn.Linear(1024, 521)
    arrays: dict[str, Any] = {
        "layer_with_weights-54/kernel": classifier.weight.detach().T.numpy(),
        "layer_with_weights-54/bias": classifier.bias.detach().numpy(),
    }
    for number, layer in enumerate([model.network.conv_stem, *model.network.layer]):
        norm = layer.normalization
        for tensor in (norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        depthwise = layer.convolution.groups > 1
        name = f"layer_with_weights-{2 * number}/" + ("depthwise_kernel" if depthwise else "kernel")
        kernel = layer.convolution.weight.data.permute(2, 3, *((0, 1) if depthwise else (1, 0)))
        arrays[name] = kernel.numpy()
        names = {"beta": norm.bias.data, "moving_mean": norm.running_mean}
        for name, tensor in {**names, "moving_variance": norm.running_var}.items():
            arrays[f"layer_with_weights-{2 * number + 1}/{name}"] = tensor.numpy()
    (tmp_path / "pretrained").mkdir()
    np.savez(tmp_path / "pretrained/yamnet_weights.npz", **arrays)
    return model, classifier


def test_yamnet_is_read_from_tensorflows_layout(tmp_path, random_yamnet):
    window = torch.randn(1, 200, 64)
    model, _ = random_yamnet
    torch.testing.assert_close(yamnet(tmp_path)(window), model(window))


@torch.no_grad()
def test_yamnets_scores_are_means_of_its_patches(tmp_path, random_yamnet):
    model, classifier = random_yamnet
    waveform = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    window = YamnetFeatureExtractor()(waveform)["input_features"]
    patches = [window[:, start : start + 96] for start in range(0, window.shape[1] - 95, 48)]
    maps = [model.network(patch.unsqueeze(1)).last_hidden_state for patch in patches]
    expected = [classifier(each.mean(dim=(2, 3))).sigmoid() for each in maps]
    scores = audioset.yamnet_scores(tmp_path, [waveform])
    assert scores.shape == (1, 521)
    torch.testing.assert_close(scores[0], torch.cat(expected).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_names_of_audioset_are_ranked_by_their_recordings():
    names = audioset.names_of(["hen", "rooster", "can_opening", "hen"])
    described = {name: rows.tolist() for name, (_, rows) in names.items()}
    assert described["Chicken, rooster"] == [True, True, False, True]
    assert described["Cluck"] == [True, False, False, True]
    truth = torch.stack([rows for _, rows in names.values()], dim=1)
    assert audioset.mean_average_precision(truth.float(), truth) == 1
    assert audioset.mean_average_precision(-truth.float(), truth) < 0.7


def test_the_audio_projection_maps_features_of_a_label_to_its_vector():
    torch.manual_seed(0)
    names, means = ["dog", "sea", "rain"], torch.randn(3, 40)
    labels = torch.arange(3).repeat(30)
    audio: Any = [SimpleNamespace(label=names[n], category="") for n in labels]
    data: Any = SimpleNamespace(audio_class_names=names, audio=audio)
    rows = {"features": means[labels] + 0.1 * torch.randn(90, 40), "index": torch.arange(90)}
    rows |= {name: torch.zeros(90, dtype=torch.long) for name in ("split", "copy")}
    vectors = torch.eye(512)[:3]
    space = fit_clap_space(data, rows, vectors)
    assert (space.embed(means) * vectors).sum(dim=1).min() > 0.97
    torch.testing.assert_close(space.targets(), vectors)


@pytest.mark.parametrize("waveforms", [[], [np.zeros(0)]])
def test_empty_audio_is_refused(waveforms):
    with pytest.raises(UserError, match="at least one sample"):
        YamnetFeatureExtractor()(waveforms)


def test_another_sampling_rate_is_refused():
    with pytest.raises(UserError, match="16000 Hz, got 44100 Hz"):
        YamnetFeatureExtractor()(np.ones(100), sampling_rate=44_100)


def test_the_demo_clap_survives_saving_through_the_auto_classes(tiny_clap, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModel

    tiny_clap.eval().save_pretrained(tmp_path)
    YamnetFeatureExtractor(max_length_s=3.0).save_pretrained(tmp_path)
    extract = AutoFeatureExtractor.from_pretrained(tmp_path)
    inputs = extract(np.random.default_rng(0).standard_normal(16_000))
    with torch.inference_mode():
        before = tiny_clap.get_audio_features(**inputs).pooler_output
        after = AutoModel.from_pretrained(tmp_path).eval().get_audio_features(**inputs)
    assert extract.max_length_s == 3.0
    torch.testing.assert_close(before, after.pooler_output)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(1))
