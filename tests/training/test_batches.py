import torch

from clip2clap.training.batches import Batches

from .builders import learnable, unit


def test_large_tables_are_trained_on_block_by_block():
    made, rows = learnable(300), torch.arange(3, 290)
    small: dict[str, int] = {"max_held_bytes": 0, "block_rows": 16, "window_blocks": 3}
    blocks = Batches(made, rows, batch_size=20, seed=0, device=torch.device("cpu"), **small)
    for epoch in (1, 2):
        given = list(blocks.epoch(epoch))
        assert [len(source) for source, _ in given] == [20] * 14 + [7]
        assert len(given) == blocks.steps
        seen = torch.cat([source for source, _ in given])
        places = (seen @ unit(made.source).T).argmax(1)
        assert sorted(places.tolist()) == rows.tolist()
        assert places.tolist() != rows.tolist()
        torch.testing.assert_close(torch.cat([target for _, target in given]), made.target[places])
    torch.testing.assert_close(blocks.means()[1], made.target[rows].mean(0))
    again = torch.cat([source for source, _ in blocks.epoch(2)])
    assert torch.equal(again, seen)
    assert not torch.equal(again, torch.cat([source for source, _ in blocks.epoch(1)]))
