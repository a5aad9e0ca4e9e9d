package graph

// Phase is a part of a training step, for reports: it changes nothing that is computed.
type Phase uint8

// The phases. Recompute is what the backward sweep computes a second time of a checkpointed region; Update is what follows the
// gradients: clipping, the optimizer, averages.
const (
	Forward Phase = iota
	Backward
	Recompute
	Update
)

// Phases are all phases, in the order of a step.
var Phases = []Phase{Forward, Backward, Recompute, Update}

// String returns the name that reports use.
func (p Phase) String() string {
	if int(p) >= len(Phases) {
		return "unknown"
	}
	return [...]string{"forward", "backward", "recompute", "update"}[p]
}

// InPhase puts the nodes built until the returned function is called into a phase. Nodes built on behalf of another belong to that
// node's phase unless one is set here.
func (g *Graph) InPhase(p Phase) func() {
	g = g.empty()
	old := g.phase
	g.phase = p
	return func() { g.phase = old }
}

// phaseNow is the phase of a node that is about to be added.
func (g *Graph) phaseNow() Phase {
	if g.phase == Forward && g.inherit != nil {
		return g.inherit.phase
	}
	return g.phase
}
