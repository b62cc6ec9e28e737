"""Translators from state dicts of PyTorch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder, TrainingConfig
from clip2clap.core.errors import UserError
from clip2clap.training.pairs import Pairs
from clip2clap.training.train import train_translator
from clip2clap.translator.importing import import_state_dict
from clip2clap.translator.mlp import MLPTranslator


class Network(nn.Module):
    """The network that the reference deploys, with names of its own."""

    def __init__(self, source: int = 12, hidden: int = 8, target: int = 6):
        super().__init__()
        self.enter, self.middle = nn.Linear(source, hidden), nn.Linear(hidden, hidden)
        self.leave, self.drop = nn.Linear(hidden, target), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.relu(self.enter(F.normalize(x))))
        return F.normalize(self.leave(self.drop(F.relu(self.middle(x)))))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.mark.parametrize("nested", [False, True])
def test_an_imported_translator_gives_the_output_of_the_network(network, tmp_path, nested):
    weights = network.state_dict()
    torch.save({"state_dict": weights, "epoch": 3} if nested else weights, tmp_path / "mlp.pth")
    embeds = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    translator = import_state_dict(tmp_path / "mlp.pth")
    with torch.no_grad():
        torch.testing.assert_close(translator(embeds), network(embeds))
    translator.save_pretrained(tmp_path / "folder")
    again = AutoTranslator.from_pretrained(tmp_path / "folder")
    assert torch.equal(again(embeds), translator(embeds))


def test_other_networks_and_pickles_are_refused(network, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(UserError, match=r"no perceptron .*got weight \(2, 3\)"):
        import_state_dict(path)
    weights = network.state_dict()
    torch.save({**weights, "norm.weight": torch.ones(8)}, path)
    with pytest.raises(UserError, match="no perceptron"):
        import_state_dict(path)
    torch.save({name: w for name, w in weights.items() if name != "middle.bias"}, path)
    with pytest.raises(UserError, match="no perceptron"):
        import_state_dict(path)
    torch.save(network, path)
    with pytest.raises(UserError, match="need unpickling"):
        import_state_dict(path)


def test_the_command_records_the_encoders(run, tmp_path):
    torch.save(Network(512, 16, 512).state_dict(), tmp_path / "mlp.pth")
    output = tmp_path / "translator"
    command = ("import-translator", tmp_path / "mlp.pth", "-o", output)
    code, out, error = run(*command, "--clip", "demo", "--clap", "demo")
    assert code == 0, error
    translator = AutoTranslator.from_pretrained(output)
    clip, clap = ClipEncoder.from_pretrained("demo"), ClapEncoder.from_pretrained("demo")
    assert translator.source_space == clip.space("image")
    assert translator.target_space == clap.space("text")
    assert "--overwrite: " in run(*command)[2]
    code, out, _ = run(*command, "--overwrite")
    assert code == 0
    assert "does not record both encoders" in out
    (tmp_path / "text.pth").write_text("no weights")
    code, _, error = run("import-translator", tmp_path / "text.pth")
    assert code == 2
    assert len(error.strip().splitlines()) == 1


def test_the_deployed_recipe_trains_with_dropout_and_the_default_without():
    config = TrainingConfig.deployed(hidden_size=16, epochs=1)
    assert (config.dropout, config.learning_rate, config.loss) == (0.5, 2e-3, "contrastive")
    assert TrainingConfig.deployed().epochs == 60
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(80, 8, generator=generator) for _ in range(2))
    pairs = Pairs(source, target)
    made = [
        train_translator(pairs, TrainingConfig.deployed(hidden_size=16, epochs=1, dropout=share))
        for share in (0.5, 0.0)
    ]
    first, second = made[0].state_dict(), made[1].state_dict()
    assert not all(torch.equal(first[name], second[name]) for name in first)
    assert TrainingConfig().resolved(100).dropout == 0
    assert TrainingConfig(architecture="residual").resolved(100).dropout == 0.1
    translator = MLPTranslator(8, 8, 16, dropout=0.5).train()
    embeds = torch.randn(3, 8, generator=generator)
    assert not torch.equal(translator(embeds), translator(embeds))
    assert torch.equal(translator.eval()(embeds), translator(embeds))
