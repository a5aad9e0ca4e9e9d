package cpu

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildTokenLoss)
	Register(buildTokenLossGrad)
}

func buildTokenLoss(d *Device, _ ops.TokenLossOp, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return tokenLossKernel(d, s.In[0], exp64), nil
	}
	return tokenLossKernel(d, s.In[0], exp32), nil
}

func tokenLossKernel[T floats](d *Device, t tensor.Type, exp expRow[T]) *Kernel {
	rows, v := lastAxis(t)
	k := rowKernel(d, t.DType, rows, v, 1, func(c *Call, lo, hi int, b buffers[T]) {
		labels := tensor.View[int32](c.In[1])
		loss, lse := tensor.View[T](c.Out[0]), tensor.View[T](c.Out[1])
		for r := lo; r < hi; r++ {
			loss[r], lse[r] = 0, 0
			if label := int(labels[r]); label >= 0 {
				z := readRow(t.DType, c.In[0], r*v, v, b.row(0))
				m := maxRow(z)
				loss[r], lse[r] = tokenLoss(m, exp.sum(z, m, b.block), z[label])
			}
		}
	})
	return checkingLabels(k, v, 1)
}

// tokenLoss finishes a row from its largest logit, Σ e^(z-m), and the logit of the label.
func tokenLoss[T floats](m T, sum float64, at T) (loss, lse T) {
	l := math.Log(sum)
	return T(float64(m) - float64(at) + l), T(float64(m) + l)
}

// checkingLabels makes a kernel refuse labels beyond the v classes, before it indexes by them.
func checkingLabels(k *Kernel, v, input int) *Kernel {
	run := k.Run
	k.Run = func(c *Call) error {
		for i, label := range tensor.View[int32](c.In[input]) {
			if int(label) >= v {
				return fmt.Errorf("the label of token %d is %d, but there are only %d classes (0 to %d); ignored tokens take a negative label",
					i, label, v, v-1)
			}
		}
		return run(c)
	}
	return k
}

func buildTokenLossGrad(d *Device, _ ops.TokenLossGradOp, s device.Spec) (*Kernel, error) {
	if s.In[0].DType == tensor.F64 {
		return tokenLossGradKernel(d, s.In[0], exp64), nil
	}
	return tokenLossGradKernel(d, s.In[0], exp32), nil
}

func tokenLossGradKernel[T floats](d *Device, t tensor.Type, exp expRow[T]) *Kernel {
	rows, v := lastAxis(t)
	k := rowKernel(d, t.DType, rows, v, 2, func(c *Call, lo, hi int, b buffers[T]) {
		labels, lse := tensor.View[int32](c.In[1]), tensor.View[T](c.In[2])
		gloss, glse := tensor.View[T](c.In[3]), tensor.View[T](c.In[4])
		for r := lo; r < hi; r++ {
			dz := targetRow(t.DType, c.Out[0], r*v, v, b.row(1))
			if label := int(labels[r]); label >= 0 {
				z := readRow(t.DType, c.In[0], r*v, v, b.row(0))
				each, hit := lossFactors(gloss, glse, r)
				lossGradRow(dz, z, lse[r], each, exp)
				dz[label] -= hit
			} else {
				clear(dz)
			}
			writeRow(t.DType, c.Out[0], r*v, dz)
		}
	})
	return checkingLabels(k, v, 1)
}

// lossFactors returns what the softmax and the one-hot row are multiplied by in a loss gradient; absent cotangents are nil.
func lossFactors[T floats](gloss, glse []T, r int) (each, hit T) {
	if gloss != nil {
		hit = gloss[r]
	}
	each = hit
	if glse != nil {
		each += glse[r]
	}
	return each, hit
}

// lossGradRow writes e^(z-lse)·g to dz, which may be z.
func lossGradRow[T floats](dz, z []T, lse, g T, exp expRow[T]) {
	exp.store(dz, z, lse)
	multiplyRow(dz, g)
}
