package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// PairLogps are the log-probabilities of N pairs of answers, each (N) in float32 or float64: the sum over the tokens of the answer, of the
// chosen and of the rejected one, under the policy that is trained and under the reference. Losses without a reference ignore Ref*.
type PairLogps struct {
	Chosen, Rejected       graph.Value
	RefChosen, RefRejected graph.Value
}

// PairLoss is a loss with what it says of the answers, each (N).
type PairLoss struct {
	Loss             graph.Value // of each pair
	Chosen, Rejected graph.Value // rewards, without gradient
}

// SequenceLogps sums token losses (N, T) to the log-probabilities (N) of the answers. Tokens that do not count have loss 0.
func SequenceLogps(tokenLoss graph.Value) graph.Value { return ops.Neg(ops.Sum(tokenLoss, -1)) }

// DPO is direct preference optimisation (Rafailov et al. 2023, equation 7): -log σ(x) with
//
//	x = β((chosen - rejected) - (reference chosen - reference rejected))
//
// and with label smoothing ε (Mitchell 2023, cDPO) -(1-ε)·log σ(x) - ε·log σ(-x). The reward of an answer is β times the policy's log-probability
// less the reference's.
type DPO struct {
	Beta      float64 // 0 = 0.1
	Smoothing float64 // ε, from 0 up to but without 1/2: the share of pairs that are taken to be the wrong way round
}

// Check reports a setting out of range.
func (d DPO) Check() error {
	if !(d.Beta >= 0) || !(d.Smoothing >= 0 && d.Smoothing < 0.5) {
		return fmt.Errorf("dpo: beta %v and label smoothing %v must satisfy beta >= 0 and 0 <= smoothing < 0.5", d.Beta, d.Smoothing)
	}
	return nil
}

// Loss returns the loss and the rewards of each pair.
func (d DPO) Loss(p PairLogps) PairLoss {
	beta := orDefault(d.Beta, 0.1)
	chosen, rejected := ops.Sub(p.Chosen, p.RefChosen), ops.Sub(p.Rejected, p.RefRejected)
	x := ops.Scale(ops.Sub(ops.Sub(p.Chosen, p.Rejected), ops.Sub(p.RefChosen, p.RefRejected)), beta)
	loss := negLogSigmoid(x)
	if d.Smoothing > 0 {
		loss = ops.Add(ops.Scale(loss, 1-d.Smoothing), ops.Scale(negLogSigmoid(ops.Neg(x)), d.Smoothing))
	}
	return PairLoss{loss, ops.Scale(chosen, beta), ops.Scale(rejected, beta)}
}

// ORPO is the odds-ratio part of monolithic preference optimisation (Hong et al. 2024, equation 7): -β·log σ(log odds ratio) on mean
// log-probabilities a = logp / tokens, with odds e^a / (1 - e^a). The token loss of the chosen answers is to be added to its mean. There is no
// reference; the reward of an answer is β·a.
type ORPO struct {
	Beta float64 // 0 = 0.1
}

// Loss returns β times the odds-ratio loss of each pair. The counts (N) are the tokens of the answers, in the dtype of the log-probabilities.
func (o ORPO) Loss(p PairLogps, chosenTokens, rejectedTokens graph.Value) PairLoss {
	beta := orDefault(o.Beta, 0.1)
	ac, ar := ops.Div(p.Chosen, chosenTokens), ops.Div(p.Rejected, rejectedTokens)
	odds := ops.Sub(ops.Sub(ac, ar), ops.Sub(logOneMinusExp(ac), logOneMinusExp(ar)))
	return PairLoss{ops.Scale(negLogSigmoid(odds), beta), ops.Scale(ac, beta), ops.Scale(ar, beta)}
}

// SimPO is simple preference optimisation (Meng et al. 2024, equation 6): -log σ(β(ac - ar) - γ) on mean log-probabilities. There is no
// reference; the reward of an answer is β·a.
type SimPO struct {
	Beta  float64 // 0 = 2
	Gamma float64 // target margin γ, 0 and up
}

// Loss returns the loss of each pair. The counts (N) are the tokens of the answers, in the dtype of the log-probabilities.
func (s SimPO) Loss(p PairLogps, chosenTokens, rejectedTokens graph.Value) PairLoss {
	beta := orDefault(s.Beta, 2)
	chosen := ops.Scale(ops.Div(p.Chosen, chosenTokens), beta)
	rejected := ops.Scale(ops.Div(p.Rejected, rejectedTokens), beta)
	return PairLoss{negLogSigmoid(ops.AddScalar(ops.Sub(chosen, rejected), -s.Gamma)), chosen, rejected}
}

// KTO is Kahneman-Tversky optimisation (Ethayarajh et al. 2024, equation 8): 1 - σ(β((pc - rc) - z)) of a desired answer and
// 1 - σ(β(z - (pr - rr))) of an undesired one, each times its weight. z, an estimate of how far the policy is from the reference, is the mean
// over answers that belong to other prompts, not below 0; it has no gradient.
type KTO struct {
	Beta      float64 // 0 = 0.1
	Desired   float64 // weight of desired answers; 0 = 1
	Undesired float64 // weight of undesired ones; 0 = 1
}

// Loss returns the sum of the two losses of each pair, of which there are two to a pair: a mean divides by 2N. z is a scalar.
func (k KTO) Loss(p PairLogps, z graph.Value) PairLoss {
	beta := orDefault(k.Beta, 0.1)
	chosen, rejected := ops.Sub(p.Chosen, p.RefChosen), ops.Sub(p.Rejected, p.RefRejected)
	// 1 - σ(x) = σ(-x), which keeps its digits where σ(x) is near 1.
	desired := ops.Sigmoid(ops.Scale(ops.Sub(z, chosen), beta))
	undesired := ops.Sigmoid(ops.Scale(ops.Sub(rejected, z), beta))
	loss := ops.Add(ops.Scale(desired, orDefault(k.Desired, 1)), ops.Scale(undesired, orDefault(k.Undesired, 1)))
	return PairLoss{loss, ops.Scale(chosen, beta), ops.Scale(rejected, beta)}
}

// negLogSigmoid is -log σ(x) = log(1 + e^-x).
func negLogSigmoid(x graph.Value) graph.Value { return ops.Softplus(ops.Neg(x)) }

// logOneMinusExp is log(1 - e^a) of a mean log-probability a <= 0. A probability of 1 is held just below it, where the odds end.
func logOneMinusExp(a graph.Value) graph.Value {
	return ops.Log(ops.Neg(ops.Expm1(ops.Min(a, ops.Scalar(a, -largestOdds)))))
}

// largestOdds is e^a nearest to 1 that odds are computed for, as its distance from 1.
const largestOdds = 1.0 / (1 << 22)

func orDefault(v, otherwise float64) float64 {
	if v == 0 {
		return otherwise
	}
	return v
}
