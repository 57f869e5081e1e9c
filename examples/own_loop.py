"""A model of avcore in one's own training loop: ten steps on the demo."""

import torch

import avcore
from avcore import open_data, parameter_groups

model = avcore.create_model("copl", task="avs", set=["data.dataset=demo-s4", "train.batch_size=4"])
loader = open_data(model).loader("train", train=True)
groups = parameter_groups(model)  # "parts" and "head": what is trained, by name
optimizer = torch.optim.Adam(
    [
        {"params": [parameter for _, parameter in groups["parts"]], "lr": 2e-3},
        {"params": [parameter for _, parameter in groups["head"]], "lr": 1e-3},
    ]
)
model.train()
for step, batch in zip(range(10), loader, strict=False):
    out = model(batch)
    loss = model.loss(out, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.4f}")
avcore.save_adapter(model, "adapter")
