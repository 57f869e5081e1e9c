"""The smallest part: two rows in every block that it is put into."""

from typing import Any

import torch
from torch import Tensor, nn

from avcore.injection import Edit, PromptLayer


class Rows(PromptLayer):
    def __init__(self, config: Any, block: Any) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, block.width))

    def attention(self, x_MND: Tensor, at: Any) -> Edit:
        return Edit(rows=self.rows)
