"""Short sequences in bfloat16 on a processor: plain products against torch's fused attention.

    python bench/attention.py

`marginals.nn.attention.attend` chooses plain products there. Forward and backward of one call,
alternating, as the ratio of the medians.
"""

import time

import torch
from torch.nn import functional as F

from marginals.nn.attention import attend

ROUNDS, BATCH, HEADS, WIDTH = 15, 64, 4, 64


def seconds(kernel, length: int, dtype: torch.dtype) -> float:
    q, k, v = (
        torch.randn(BATCH, length, HEADS, WIDTH, dtype=dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    )
    mask = torch.ones(BATCH, 1, 1, length, dtype=torch.bool)
    began = time.perf_counter()
    kernel(q, k, v, mask).sum().backward()
    return time.perf_counter() - began


def fused(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{BATCH} x {HEADS} heads of {WIDTH}, one thread, {ROUNDS} rounds; fused / ours:")
    for length in (64, 80, 256):
        pairs = [
            [seconds(kernel, length, torch.bfloat16) for kernel in (fused, attend)]
            for _ in range(ROUNDS + 1)
        ][1:]
        ratios = torch.tensor([a / b for a, b in pairs])
        low, middle, high = ratios.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        print(f"  {length:4d} tokens: {middle:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
