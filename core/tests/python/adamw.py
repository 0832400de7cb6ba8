"""The numbers that the tests of `tune::optimiser` hold AdamW against: `torch.optim.AdamW`, three steps of four parameters."""

import torch

gradients = [[0.1, -3.0, 1e-4, 2e-9], [-0.2, 1.0, 3e-4, -1e-9], [0.05, 0.25, -1e-4, 4e-9]]
parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 0.0]))
optimiser = torch.optim.AdamW([parameter], lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, foreach=False)
for gradient in gradients:
    parameter.grad = torch.tensor(gradient)
    optimiser.step()
print([float(f"{value:.9g}") for value in parameter.tolist()])
