package peers

import "math"

// Reference computes loss and gradients in float64 with plain loops. It is what every peer, and this framework, is held to.
func Reference(p *Problem) Result { return newWide(p).lossGrad() }

// ReferenceLosses returns the loss before each of n SGD steps, weights held in float64.
func ReferenceLosses(p *Problem, n int) []float64 {
	w := newWide(p)
	losses := make([]float64, n)
	for i := range losses {
		r := w.lossGrad()
		losses[i] = r.Loss
		for _, pair := range [][2][]float64{{w.w1, r.W1}, {w.b1, r.B1}, {w.w2, r.W2}, {w.b2, r.B2}} {
			for j, g := range pair[1] {
				pair[0][j] -= float64(p.LR) * g
			}
		}
	}
	return losses
}

// wide is a Problem in float64.
type wide struct {
	p                 *Problem
	x, w1, b1, w2, b2 []float64
}

func newWide(p *Problem) *wide {
	return &wide{p: p, x: widen(p.X), w1: widen(p.W1), b1: widen(p.B1), w2: widen(p.W2), b2: widen(p.B2)}
}

func (w *wide) lossGrad() Result {
	p := w.p
	h := affine(w.x, w.w1, w.b1, p.Batch, p.In, p.Hidden)
	for i, v := range h {
		h[i] = max(v, 0)
	}
	logits := affine(h, w.w2, w.b2, p.Batch, p.Hidden, p.Out)
	loss, dLogits := crossEntropy(logits, p.Labels, p.Out)
	r := Result{Loss: loss}
	r.W2, r.B2 = affineGrad(h, dLogits, p.Batch, p.Hidden, p.Out)
	dh := timesTransposed(dLogits, w.w2, p.Batch, p.Hidden, p.Out)
	for i, v := range h {
		if v == 0 {
			dh[i] = 0
		}
	}
	r.W1, r.B1 = affineGrad(w.x, dh, p.Batch, p.In, p.Hidden)
	return r
}

// affine is x (m, k) times w (k, n) plus b (n).
func affine(x, w, b []float64, m, k, n int) []float64 {
	y := make([]float64, m*n)
	for i := range m {
		row := y[i*n : (i+1)*n]
		copy(row, b)
		for l, xv := range x[i*k : (i+1)*k] {
			for j, wv := range w[l*n : (l+1)*n] {
				row[j] += xv * wv
			}
		}
	}
	return y
}

// affineGrad returns the gradients of w and b: x transposed (k, m) times dy (m, n), and dy summed over rows.
func affineGrad(x, dy []float64, m, k, n int) (dw, db []float64) {
	dw, db = make([]float64, k*n), make([]float64, n)
	for i := range m {
		dRow := dy[i*n : (i+1)*n]
		for j, d := range dRow {
			db[j] += d
		}
		for l, xv := range x[i*k : (i+1)*k] {
			row := dw[l*n : (l+1)*n]
			for j, d := range dRow {
				row[j] += xv * d
			}
		}
	}
	return dw, db
}

// timesTransposed is dy (m, n) times w (k, n) transposed.
func timesTransposed(dy, w []float64, m, k, n int) []float64 {
	dx := make([]float64, m*k)
	for i := range m {
		for l := range k {
			for j, wv := range w[l*n : (l+1)*n] {
				dx[i*k+l] += dy[i*n+j] * wv
			}
		}
	}
	return dx
}

// crossEntropy is the mean over rows of -log softmax at the label, with the gradient (softmax - onehot) / rows.
func crossEntropy(logits []float64, labels []int32, n int) (loss float64, d []float64) {
	d = make([]float64, len(logits))
	rows := float64(len(labels))
	for i, label := range labels {
		row, out := logits[i*n:(i+1)*n], d[i*n:(i+1)*n]
		top := math.Inf(-1)
		for _, v := range row {
			top = max(top, v)
		}
		sum := 0.0
		for _, v := range row {
			sum += math.Exp(v - top)
		}
		loss += (top + math.Log(sum) - row[label]) / rows
		for j, v := range row {
			out[j] = math.Exp(v-top) / sum / rows
		}
		out[label] -= 1 / rows
	}
	return loss, d
}

func widen(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}
