"""Small networks of many kinds, as a user's module would make them: each takes a batch, and gives its inputs too."""

import torch
from torch import nn
from torch.nn import functional as F


def cnn(batch):
    layers = [nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(24, 48, 3, padding=1, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(48, 10)), (torch.randn(batch, 3, 33, 33),)


class _Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.table = nn.Embedding(101, 48)
        self.body = kind(48, 64, num_layers=2, batch_first=True, **options)
        self.head = nn.Linear(64 * (2 if options.get("bidirectional") else 1), 101)

    def forward(self, ids):
        return self.head(self.body(self.table(ids))[0])


def lstm(batch):
    return _Recurrent(nn.LSTM), (torch.zeros(batch, 23, dtype=torch.int64),)


def bilstm(batch):
    return _Recurrent(nn.LSTM, bidirectional=True), (torch.zeros(batch, 23, dtype=torch.int64),)


def gru(batch):
    return _Recurrent(nn.GRU), (torch.zeros(batch, 23, dtype=torch.int64),)


class _Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, 8)
        layer = nn.TransformerEncoderLayer(64, 4, 160, batch_first=True, norm_first=True, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.body(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


def vit(batch):
    return _Patches(), (torch.randn(batch, 3, 56, 56),)


class _UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.last = nn.Conv2d(48, 1, 3, padding=1)

    def forward(self, images):
        fine = F.relu(self.first(images))
        coarse = F.relu(self.down(fine))
        wide = F.interpolate(coarse[:, :16], scale_factor=2, mode="bilinear")
        return self.last(torch.cat([fine, self.up(coarse), wide], 1))


def unet(batch):
    return _UNet(), (torch.randn(batch, 1, 38, 38),)


def autoencoder(batch):
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 784), nn.Sigmoid()]
    return nn.Sequential(*layers), (torch.randn(batch, 784),)


class _Messages(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(33, 33) for _ in range(3))

    def forward(self, nodes, sources, targets):
        for layer in self.layers:
            nodes = F.relu(torch.zeros_like(nodes).index_add(0, targets, layer(nodes)[sources]))
        return nodes


def graph(batch):
    edges = torch.zeros(4 * batch, dtype=torch.int64)
    return _Messages(), (torch.randn(batch, 33), edges, edges.clone())


class _Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
        self.tokens = nn.ModuleList([nn.Linear(49, 96), nn.Linear(96, 49)])
        self.channels = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))

    def forward(self, values):
        for _ in range(3):
            mixed = F.gelu(self.tokens[0](self.norms[0](values).transpose(1, 2)))
            values = values + self.tokens[1](mixed).transpose(1, 2)
            values = values + self.channels(self.norms[1](values))
        return values


def mixer(batch):
    return _Mixer(), (torch.randn(batch, 49, 64),)


def mixer_bf16(batch):
    return _Mixer().bfloat16(), (torch.randn(batch, 49, 64).bfloat16(),)


class _Signals(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 64)
        self.blocks = nn.Sequential(nn.Unfold(3), nn.Fold((8, 8), 3), nn.ReflectionPad2d(1), nn.GroupNorm(1, 1))

    def forward(self, values):
        values = torch.fft.irfft(torch.fft.rfft(self.body(values)) * 2, n=64)
        image = self.blocks(values.view(-1, 1, 8, 8)).flatten(1)
        order = values.sort(-1)[0].gather(1, torch.zeros(values.shape, dtype=torch.int64, device=values.device))
        return image.logsumexp(-1) + torch.fft.fft(order, dim=0).abs().sum(-1)


def signals(batch):
    return _Signals(), (torch.randn(batch, 64),)


class _Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.EmbeddingBag(101, 64, mode="max")
        self.head = nn.Linear(64, 7)

    def forward(self, ids):
        return self.head(self.tables(ids))


def _rows(values):
    return torch.zeros(2 * len(values), dtype=torch.int64, device=values.device)


def choices(batch):
    chosen = (
        lambda v: v[_rows(v)],
        lambda v: v.index_select(0, _rows(v)),
        lambda v: v.topk(31)[0] + v.cummax(1)[0][:, :31],
    )
    layers = [part for function in chosen for part in (_Applied(function), nn.Linear(64, 64))]
    return nn.Sequential(*layers[:-1], nn.Linear(31, 7)), (torch.randn(batch, 64),)


def bags(batch):
    return _Bags(), (torch.zeros(batch, 20, dtype=torch.int64),)


class _Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.body = nn.Linear(64, 64)
        self.function = function

    def forward(self, values):
        return self.function(self.body(values))


def cumprods(batch):
    return _Applied(lambda values: values.sigmoid().cumprod(1)), (torch.randn(batch, 64),)


@torch.library.custom_op("seldom::doubled", mutates_args=())
def doubled(values: torch.Tensor) -> torch.Tensor:
    return values * 2


doubled.register_fake(torch.empty_like)
doubled.register_autograd(lambda ctx, grad: grad * 2)


def own_operator(batch):
    return _Applied(doubled), (torch.randn(batch, 64),)


class _Inferred(nn.Sequential):
    def forward(self, images):
        with torch.inference_mode(not torch.is_grad_enabled()):
            return super().forward(images)


def inferred(batch):
    layers = [nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(31 * 31, 5), nn.Softmax(-1)]
    return _Inferred(*layers), (torch.randn(batch, 3, 33, 33),)


NETWORKS = {
    one.__name__: one
    for one in (
        cnn, lstm, bilstm, gru, vit, unet, autoencoder, graph, mixer, mixer_bf16, signals, choices, inferred,
        bags, cumprods, own_operator,
    )
}  # fmt: skip
