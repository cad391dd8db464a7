"""Optimisation: what turns gradients into new parameters. Each rule works in place on one array; callers hold all parameters in one long vector."""

import math


def adam(p, g, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """One step of Adam, in place on p, m and v (Kingma and Ba 2015, algorithm 1, in the order of its section 2, last paragraph).

    p parameters, g their gradient, m and v the running means of g and g^2 (zeros before step 1), all of one shape; step counts from 1.

        m = beta1 m + (1 - beta1) g           m_hat = m / (1 - beta1^step)
        v = beta2 v + (1 - beta2) g^2         v_hat = v / (1 - beta2^step)
        p = p - lr m_hat / (sqrt(v_hat) + eps)

    m and v start at zero and are too small by those factors at first. With c = sqrt(1 - beta2^step) the update is, without any
    corrected copies,   p = p - (lr c / (1 - beta1^step)) m / (sqrt(v) + eps c).
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
    """Exponential moving average of the parameters, in place on average:   average = decay average + (1 - decay) p

    Sampling from averaged weights removes the last steps' jitter (Ho et al. 2020, appendix B, there with decay 0.9999).
    """
    average *= decay
    average += (1 - decay) * p


def warmed_up(decay, step):
    """The decay to use at step 1, 2, ...: min(decay, (1 + step) / (10 + step)), so that a short run's average forgets the untrained weights."""
    return min(decay, (1 + step) / (10 + step))


def learning_rate(name, step, steps, peak):
    """The learning rate of step 1..steps, a float: `constant`, or `cosine` decay from peak to zero (Loshchilov and Hutter 2017, eq. 5)."""
    if name == "constant":
        return peak
    if name == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    raise ValueError(f"lr_schedule is {name!r}; it must be constant or cosine")
