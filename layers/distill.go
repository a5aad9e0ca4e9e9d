package layers

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Divergence says how far a student's distribution p is from a teacher's q.
type Divergence uint8

const (
	// ForwardKL is KL(q‖p): the student covers everything the teacher finds likely (Hinton et al. 2015). It is the zero value.
	ForwardKL Divergence = iota
	// ReverseKL is KL(p‖q): the student keeps to what the teacher finds likely (Gu et al. 2023, MiniLLM).
	ReverseKL
	// JensenShannon is β·KL(q‖m) + (1-β)·KL(p‖m) with m = β·q + (1-β)·p (Agarwal et al. 2023, GKD, equation 1). It is at most log 2.
	JensenShannon
)

// String returns "forward_kl", "reverse_kl" or "js".
func (d Divergence) String() string {
	switch d {
	case ForwardKL:
		return "forward_kl"
	case ReverseKL:
		return "reverse_kl"
	case JensenShannon:
		return "js"
	}
	return fmt.Sprintf("Divergence(%d)", uint8(d))
}

// Distill is the loss of a student that learns from a teacher's scores (Hinton et al. 2015, arXiv 1503.02531):
//
//	Soft·T²·D(softmax(teacher/T), softmax(student/T)) + (1-Soft)·cross-entropy(student, labels)
//
// T² keeps the size of the gradient independent of T. The zero value is the forward KL divergence at T = 1 with Soft = 1.
type Distill struct {
	Temperature float64 // T; 0 = 1, usual 2 to 4
	Hard        float64 // 1-Soft: the share of the labels' cross-entropy, 0 to 1
	Divergence  Divergence
	Beta        float64 // of JensenShannon; 0 = 1/2
}

// Loss is the mean of TokenLoss over the tokens that count, 0 if there are none.
func (d Distill) Loss(student, teacher, labels graph.Value) graph.Value {
	loss := d.TokenLoss(student, teacher, labels)
	if labels.Absent() && loss.Valid() {
		return ops.Mean(loss)
	}
	return ops.MeanLoss(loss, labels)
}

// TokenLoss maps scores (..., V) of student and teacher to a loss (...) in float32 (float64 where the student's scores are). labels
// (...) i32 are the right tokens; those below 0 (-100 by custom) do not count, their loss is 0. labels may be absent when Hard is 0.
// No gradient flows to the teacher.
func (d Distill) TokenLoss(student, teacher, labels graph.Value) graph.Value {
	if !student.Valid() || !teacher.Valid() {
		return ops.Add(student, teacher) // absorbs what is poisoned and refuses what is absent
	}
	g := student.Graph()
	if err := d.check(student, teacher, labels); err != nil {
		return g.Fail("distill", []graph.Value{student, teacher, labels}, err)
	}
	if d.Hard == 1 { // 0 times an infinite divergence is not 0
		return ops.TokenLoss(student, labels)
	}
	t := d.Temperature
	if t == 0 {
		t = 1
	}
	wide := tensor.F32
	if student.DType() == tensor.F64 {
		wide = tensor.F64
	}
	lp := ops.LogSoftmax(ops.Scale(ops.Cast(student, wide), 1/t), -1)
	lq := autograd.StopGrad(ops.LogSoftmax(ops.Scale(ops.Cast(teacher, wide), 1/t), -1))
	loss := ops.Scale(d.divergence(lp, lq), (1-d.Hard)*t*t)
	if labels.Absent() {
		return loss
	}
	loss = ops.Where(ops.Counted(labels), loss, ops.Scalar(loss, 0))
	if d.Hard > 0 {
		loss = ops.Add(loss, ops.Scale(ops.TokenLoss(student, labels), d.Hard))
	}
	return loss
}

func (d Distill) check(student, teacher, labels graph.Value) error {
	switch {
	case student.Shape() != teacher.Shape():
		return fmt.Errorf("the student's scores are %v, the teacher's %v: both must have one vocabulary and see the same tokens",
			student.Shape(), teacher.Shape())
	case !student.DType().IsFloat() || !teacher.DType().IsFloat():
		return fmt.Errorf("scores are %v and %v: both must be floats", student.DType(), teacher.DType())
	case student.Rank() < 1 || student.Dim(-1) < 1:
		return fmt.Errorf("scores %v have no vocabulary", student.Shape())
	case !(d.Temperature >= 0) || math.IsInf(d.Temperature, 0):
		return fmt.Errorf("temperature %v: must be above 0 (0 = 1)", d.Temperature)
	case !(d.Hard >= 0 && d.Hard <= 1):
		return fmt.Errorf("share of the hard labels %v: must be from 0 to 1", d.Hard)
	case d.Hard > 0 && labels.Absent():
		return fmt.Errorf("share of the hard labels %v, but there are no labels", d.Hard)
	case !(d.Beta >= 0 && d.Beta < 1):
		return fmt.Errorf("beta %v: must be above 0 and below 1 (0 = 1/2)", d.Beta)
	case d.Divergence > JensenShannon:
		return fmt.Errorf("unknown divergence %v", d.Divergence)
	}
	return nil
}

// divergence maps log-probabilities (..., V) of student and teacher to (...).
func (d Distill) divergence(lp, lq graph.Value) graph.Value {
	switch d.Divergence {
	case ReverseKL:
		return kl(lp, lq)
	case JensenShannon:
		beta := d.Beta
		if beta == 0 {
			beta = 0.5
		}
		a, b := ops.AddScalar(lq, math.Log(beta)), ops.AddScalar(lp, math.Log(1-beta))
		peak := autograd.StopGrad(ops.Max(ops.Max(a, b), ops.Scalar(a, -1e30))) // finite where both probabilities are 0
		sum := ops.Add(ops.Exp(ops.Sub(a, peak)), ops.Exp(ops.Sub(b, peak)))    // at least 1, or 0 there: no gradient then
		lm := ops.Add(peak, ops.Log(ops.Max(sum, ops.Scalar(sum, 0.5))))
		return ops.Add(ops.Scale(kl(lq, lm), beta), ops.Scale(kl(lp, lm), 1-beta))
	}
	return kl(lq, lp)
}

// kl is KL(P‖Q) = Σ P·(log P - log Q) over the last axis. Where P is 0 (a score of -Inf) it adds nothing.
func kl(lp, lq graph.Value) graph.Value {
	p := ops.Exp(lp)
	zero := ops.Scalar(p, 0)
	return ops.Sum(ops.Mul(p, ops.Where(ops.Equal(p, zero), zero, ops.Sub(lp, lq))), -1)
}

// HiddenKind is how hidden states are compared.
type HiddenKind uint8

const (
	// HiddenMSE is the mean squared difference of the features. It is the zero value.
	HiddenMSE HiddenKind = iota
	// HiddenCosine is 1 minus the cosine of the angle between the states.
	HiddenCosine
)

// LayerPair says which layer of a teacher a layer of a student imitates: indices into their hidden states.
type LayerPair struct{ Student, Teacher int }

// UniformLayers pairs every layer of a student of n layers with the teacher's layer at the same share of its depth m, 0 being the
// embedding: student layer i imitates teacher layer i·m/n, rounded.
func UniformLayers(n, m int) []LayerPair {
	var out []LayerPair
	for i := range n {
		out = append(out, LayerPair{i + 1, int(math.Round(float64(i+1) * float64(m) / float64(n)))})
	}
	return out
}

// HiddenDistill is the loss of a student whose hidden states imitate a teacher's (Romero et al. 2014, FitNets; Jiao et al. 2019,
// TinyBERT). Projections, one a pair, map the student's width to the teacher's; they are trained along and thrown away.
type HiddenDistill struct {
	Projections []*Linear `name:"projections"` // nil where both have one width

	Pairs []LayerPair
	Kind  HiddenKind
}

// NewHiddenDistill pairs layers. Where the widths differ, projections "projections.i.weight" come from src.
func NewHiddenDistill(src Source, pairs []LayerPair, studentDim, teacherDim int, kind HiddenKind) *HiddenDistill {
	h := &HiddenDistill{Pairs: pairs, Kind: kind}
	if studentDim == teacherDim {
		return h
	}
	for i := range pairs {
		sub := src.Sub("projections.%d", i)
		h.Projections = append(h.Projections, &Linear{Weight: sub.Var("weight", LinearInit(studentDim), teacherDim, studentDim)})
	}
	return h
}

// Loss compares hidden states (..., features), one for each layer, of student and teacher: the mean over pairs and over the tokens that
// count, those whose label (...) i32 is not below 0; absent labels count all. No gradient flows to the teacher.
func (h *HiddenDistill) Loss(student, teacher []graph.Value, labels graph.Value) graph.Value {
	var total graph.Value
	for i, p := range h.Pairs {
		if p.Student < 0 || p.Student >= len(student) || p.Teacher < 0 || p.Teacher >= len(teacher) {
			return failAny(slices.Concat(student, teacher), fmt.Errorf("pair %d is layers %d and %d of %d and %d hidden states", i, p.Student,
				p.Teacher, len(student), len(teacher)))
		}
		s, t := student[p.Student], teacher[p.Teacher]
		if i < len(h.Projections) {
			s = h.Projections[i].Forward(s)
		}
		loss := h.pair(s, t, labels)
		if i == 0 {
			total = loss
		} else {
			total = ops.Add(total, loss)
		}
	}
	if len(h.Pairs) == 0 {
		return failAny(slices.Concat(student, teacher), fmt.Errorf("no layers are paired; see UniformLayers"))
	}
	return ops.Scale(total, 1/float64(len(h.Pairs)))
}

func (h *HiddenDistill) pair(s, t, labels graph.Value) graph.Value {
	if !s.Valid() || !t.Valid() {
		return ops.Add(s, t)
	}
	if h.Kind > HiddenCosine {
		return failAny([]graph.Value{s}, fmt.Errorf("unknown kind of comparison %d: use HiddenMSE or HiddenCosine", h.Kind))
	}
	if s.Shape() != t.Shape() {
		return failAny([]graph.Value{s}, fmt.Errorf("the student's states are %v, the teacher's %v: make projections with NewHiddenDistill",
			s.Shape(), t.Shape()))
	}
	wide := tensor.F32
	if s.DType() == tensor.F64 {
		wide = tensor.F64
	}
	s, t = ops.Cast(s, wide), autograd.StopGrad(ops.Cast(t, wide))
	var loss graph.Value
	switch h.Kind {
	case HiddenCosine:
		norms := ops.Mul(ops.Sum(ops.Square(s), -1), ops.Sum(ops.Square(t), -1))
		cos := ops.Mul(ops.Sum(ops.Mul(s, t), -1), ops.Rsqrt(ops.AddScalar(norms, 1e-24)))
		loss = ops.Sub(ops.Scalar(cos, 1), cos)
	default:
		loss = ops.Mean(ops.Square(ops.Sub(s, t)), -1)
	}
	if labels.Absent() {
		return ops.Mean(loss)
	}
	return ops.MeanLoss(ops.Where(ops.Counted(labels), loss, ops.Scalar(loss, 0)), labels)
}

// failAny records an error on the graph of the first value there is.
func failAny(vals []graph.Value, err error) graph.Value {
	for _, v := range vals {
		if v.Graph() != nil {
			return v.Graph().Fail("distill hidden states", vals, err)
		}
	}
	return graph.Value{}
}
