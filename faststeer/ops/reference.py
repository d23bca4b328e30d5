"""The ops in plain PyTorch: the specification that every kernel is tested against.

Arithmetic is float32 (float64 where the residual is float64, for gradient checks). The sum of
vectors runs in entry order; the residual is rounded once, the norm reads the rounded value, the
output is rounded once. Statistics are float64 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

MODE_NUMBERS = 5  # of a vector: push, pull, keep, floor, ceiling


def steering_sum(
    vectors: Tensor, index: Tensor, coefficient: Tensor, tokens: int, dtype: torch.dtype
) -> Tensor:
    """Return ``s = sum_k c_k * V[i_k]`` for every token, ``[N, H]`` in `dtype`.

    Entry k of row r of `index` ``[R, K]`` is a row of `vectors` ``[S, H]``, or -1 for none. Row r
    covers N/R consecutive tokens.
    """
    settings, entries = index.shape
    total = torch.zeros(settings, vectors.shape[1], dtype=dtype, device=vectors.device)
    for k in range(entries):
        chosen = vectors[index[:, k].clamp(min=0).long()].to(dtype)
        term = coefficient[:, k, None].to(dtype) * chosen
        total = total + torch.where(index[:, k, None] >= 0, term, torch.zeros_like(term))
    return total.repeat_interleave(tokens // settings, dim=0)


def steered(
    h: Tensor, vectors: Tensor, index: Tensor, coefficient: Tensor, modes: Tensor | None = None
) -> Tensor:
    """Return the steered tokens ``[N, H]``: ``h + s`` with s as in `steering_sum`.

    With `modes` ``[S, 5]`` every vector v has push, pull, keep, floor and ceiling. Where pull is 0
    its entry adds ``c * push * v`` as part of s. The others come after s, in entry order, each to
    the result of the one before: with ``p = h . v - c * push`` they add
    ``share * (min(max(p, floor), ceiling) - p) * v``, where share is ``c * pull``, or pull alone
    where push is not 0. For a unit vector and c = 1 (0, f, 0, 0, 0) removes the fraction f of the
    projection, (0, 1, 0, t, t) sets it to t, and (0, 1, 0, a, b) keeps it within a and b, either
    of which may be infinite. With a push c is where the bounds are: (1, 1, 0, -inf, 0) keeps the
    projection at c or below. A floor above its ceiling counts alone. Finally, where any entry's
    keep is not 0, the token is rescaled to its norm before steering.

    A cap has the gradient of `torch.clamp`: at a bound that of a token within.
    """
    if modes is None:
        return h + steering_sum(vectors, index, coefficient, len(h), h.dtype)
    push, pull, keep, floor, ceiling = modes[index.clamp(min=0).long()].to(h.dtype).unbind(2)
    added = torch.where(pull == 0, index, -1)
    before = h
    h = h + steering_sum(vectors, added, coefficient * push, len(h), h.dtype)

    line = torch.arange(len(index), device=h.device).repeat_interleave(len(h) // len(index))
    for k in range(index.shape[1]):
        i, c = index[line, k, None], coefficient[line, k, None].to(h.dtype)
        moves, pulls = push[line, k, None], pull[line, k, None]
        least, most = floor[line, k, None], ceiling[line, k, None]
        v = vectors[i[:, 0].clamp(min=0).long()].to(h.dtype)
        own = (h * v).sum(1, keepdim=True) - c * moves
        # Equal bounds are a constant, which has no gradient, not even where they are met.
        held = torch.where(least < most, own.clamp(least, most), least)
        share = torch.where(moves == 0, c * pulls, pulls)
        h = torch.where((i >= 0) & (pulls != 0), h + share * (held - own) * v, h)

    kept = ((index >= 0) & (keep != 0)).any(1)[line, None]
    norm = h.norm(dim=1, keepdim=True)
    kept = kept & (norm > 0)
    # An unused factor has to be finite too: autograd multiplies it by zero.
    factor = before.norm(dim=1, keepdim=True) / torch.where(kept, norm, 1.0)
    return torch.where(kept, h * factor, h)


def steer_add(
    x: Tensor | None,
    residual: Tensor,
    vectors: Tensor | None = None,
    index: Tensor | None = None,
    coefficient: Tensor | None = None,
    modes: Tensor | None = None,
) -> Tensor:
    """Return ``h = round(steered(residual + x))`` in the residual's shape and dtype."""
    wide = torch.float64 if residual.dtype == torch.float64 else torch.float32
    h = residual.to(wide)
    if x is not None:
        h = h + x.to(wide)
    if vectors is not None and index is not None and coefficient is not None:
        rows = h.reshape(-1, h.shape[-1])
        h = steered(rows, vectors, index, coefficient, modes).view(residual.shape)
    return h.to(residual.dtype)


def inverse_rms(h: Tensor, eps: float) -> Tensor:
    """Return ``rsqrt(mean(h^2) + eps)`` of every token, ``[N]`` float32 (float64 of float64)."""
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    return torch.rsqrt(h.to(wide).square().mean(-1).reshape(-1) + eps)


def rms_norm(h: Tensor, weight: Tensor, eps: float, weight_offset: float = 0.0) -> Tensor:
    """Return ``round(h * rsqrt(mean(h^2) + eps) * (weight_offset + weight))`` in h's dtype."""
    scale = inverse_rms(h, eps).view(*h.shape[:-1], 1)
    wide = scale.dtype
    return (h.to(wide) * scale * (weight_offset + weight.to(wide))).to(h.dtype)


def steer_add_rms_norm(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    vectors: Tensor | None = None,
    index: Tensor | None = None,
    coefficient: Tensor | None = None,
    modes: Tensor | None = None,
    weight_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return ``(out, h)``: the RMSNorm of the steered residual, and that residual."""
    h = steer_add(x, residual, vectors, index, coefficient, modes)
    return rms_norm(h, weight, eps, weight_offset), h


def entry_grads(
    grad_h: Tensor, vectors: Tensor, index: Tensor, coefficient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `vectors` and `coefficient` from that of h, ``[N, H]``.

    With g_r the sum of `grad_h` over the tokens of row r of `index`, every entry adds
    ``c_rk * g_r`` to the gradient of its vector, and the gradient of c_rk is ``V[i_rk] . g_r``.
    """
    sums = grad_h.reshape(len(index), -1, grad_h.shape[-1]).sum(1)
    grad_vectors = torch.zeros_like(vectors, dtype=grad_h.dtype)
    dots = [torch.zeros(index.shape, dtype=grad_h.dtype, device=index.device)[:, :0]]
    for k in range(index.shape[1]):
        used, line = index[:, k, None] >= 0, index[:, k].clamp(min=0).long()
        own = torch.where(used, sums, 0.0)
        scaled = torch.where(used, coefficient[:, k, None].to(grad_h.dtype) * own, 0.0)
        grad_vectors = grad_vectors.index_add(0, line, scaled)
        dots.append((vectors[line].to(grad_h.dtype) * own).sum(1, keepdim=True))
    return grad_vectors.to(vectors.dtype), torch.cat(dots, 1).to(coefficient.dtype)


def steer_add_backward(
    grad: Tensor,
    vectors: Tensor,
    index: Tensor,
    coefficient: Tensor,
    for_vectors: bool,
    for_coefficient: bool,
) -> tuple[Tensor, Tensor]:
    """Return `entry_grads` of the gradient of h; what is not wanted has no elements."""
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    rows = grad.to(wide).reshape(-1, grad.shape[-1])
    found = entry_grads(rows, vectors, index, coefficient)
    return found[0] if for_vectors else grad.new_empty(0), (
        found[1] if for_coefficient else grad.new_empty(0)
    )


def steer_add_rms_norm_backward(
    grad_out: Tensor,
    grad_residual: Tensor | None,
    h: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    weight_offset: float,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    x_dtype: torch.dtype | None,
    for_h: bool,
    for_weight: bool,
    for_vectors: bool,
    for_coefficient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of h, of h in `x_dtype`, of weight, vectors and coefficient.

    With ``r`` the `inverse_rms` ``[N]``, ``y = h * r`` and ``g = grad_out * (weight_offset +
    weight)`` that of h is ``grad_residual + r * (g - y * mean(g * y))``, rounded once, and that of
    the weight ``sum(grad_out * y)`` over tokens. What is not wanted has no elements.
    """
    wide, hidden = inverse_rms.dtype, h.shape[-1]
    out, own = grad_out.to(wide).reshape(-1, hidden), h.to(wide).reshape(-1, hidden)
    y = own * inverse_rms[:, None]
    g = out * (weight_offset + weight.to(wide))
    grad_h = inverse_rms[:, None] * (g - y * (g * y).mean(-1, keepdim=True))
    if grad_residual is not None:
        grad_h = grad_h + grad_residual.to(wide).reshape(-1, hidden)
    none = grad_out.new_empty(0)
    grad_vectors, grad_coefficient = none, none
    if vectors is not None and index is not None and coefficient is not None:
        grad_vectors, grad_coefficient = entry_grads(grad_h, vectors, index, coefficient)
    return (
        grad_h.to(h.dtype).view(h.shape) if for_h else none,
        none if x_dtype is None else grad_h.to(x_dtype).view(h.shape),
        (out * y).sum(0).to(weight.dtype) if for_weight else none,
        grad_vectors if for_vectors else none,
        grad_coefficient if for_coefficient else none,
    )


def accumulate_moments(
    x: Tensor, group: Tensor | None, count: Tensor, mean: Tensor, m2: Tensor
) -> None:
    """Merge the rows of `x` ``[..., H]`` into `count` ``[G]``, `mean` and `m2` ``[G, H]``.

    The rows of a group have ``n`` and ``own``; with ``d = own - mean`` the group has
    ``mean + d n / (count + n)`` and ``m2 + own_m2 + d^2 count n / (count + n)``.
    """
    rows = x.detach().reshape(-1, x.shape[-1]).double()

    def per_group(values: Tensor) -> Tensor:
        if group is None:
            return values.sum(0, keepdim=True)
        sums = values.new_zeros(len(count) + 1, values.shape[1])  # the first is for skipped rows
        return sums.index_add(0, group.reshape(-1).long() + 1, values)[1:]

    n = per_group(torch.ones_like(rows[:, :1]))
    own = per_group(rows) / n.clamp(min=1)
    own_of_row = own if group is None else own[group.reshape(-1).long().clamp(min=0)]
    own_m2 = per_group((rows - own_of_row).square())

    started = count[:, None] > 0
    share = n / (count[:, None] + n).clamp(min=1)
    d = torch.where(started, own - mean, 0.0)
    merged = torch.where(started, mean, own) + d * share
    merged_m2 = torch.where(started, m2, 0.0) + own_m2 + d.square() * count[:, None] * share
    mean.copy_(torch.where(n > 0, merged, mean))
    m2.copy_(torch.where(n > 0, merged_m2, m2))
    count.add_(n[:, 0].long())
