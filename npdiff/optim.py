"""Optimisation: gradients become new parameters.

Each rule works in place on one array. A caller keeps all parameters in one long vector.
"""

import math


def adam(p, g, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """One step of Adam, in place on p, m and v.

    p: parameters. g: their gradient. m, v: running means of g and g^2, zeros before step 1. All have one
    shape. step counts from 1. Source: [Kingma and Ba 2015](https://arxiv.org/abs/1412.6980), algorithm 1.

        m = beta1 m + (1 - beta1) g           m_hat = m / (1 - beta1^step)
        v = beta2 v + (1 - beta2) g^2         v_hat = v / (1 - beta2^step)
        p = p - lr m_hat / (sqrt(v_hat) + eps)

    m and v start at zero, so at first they are too small; the divisions correct this. The last line needs no
    corrected copies (section 2 of the paper, last paragraph):
        c = sqrt(1 - beta2^step)        denominator = sqrt(v) + eps c
        update = (lr c / (1 - beta1^step)) m / denominator
        p = p - update
    """
    c = math.sqrt(1 - beta2 ** step)
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    denominator = v ** 0.5
    denominator += eps * c
    update = m / denominator
    update *= lr * c / (1 - beta1 ** step)
    p -= update


def ema(average, p, decay):
    """Exponential moving average of the parameters, in place:   average = decay average + (1 - decay) p

    Samples from averaged weights are better: the average does not follow the random moves of the last steps
    (Ho et al. 2020, appendix B, there with decay 0.9999).
    """
    average *= decay
    average += (1 - decay) * p


def warmed_up(decay, step):
    """The decay at step 1, 2, ...:   min(decay, (1 + step) / (10 + step)).

    At first it is small, so that the average of a short run forgets the untrained weights.
    """
    return min(decay, (1 + step) / (10 + step))


def learning_rate(name, step, steps, peak):
    """The learning rate at step 1..steps, a float. name is `constant`, or `cosine`: from peak down to zero.

    Source of cosine: [Loshchilov and Hutter 2017](https://arxiv.org/abs/1608.03983), eq. 5.
    Raises ValueError for another name.
    """
    if name == "constant":
        return peak
    if name == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    raise ValueError(f"lr_schedule is {name!r}; it must be constant or cosine")
