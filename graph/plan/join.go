package plan

import "github.com/bitsandbyes/bitsandbyes/graph"

// joint is a node that does work of a later one.
type joint struct {
	later  *graph.Node
	op     graph.Op
	finish func(in, more []graph.Value) []graph.Value
}

// join lets ops that can (Joiner) do what a later node would repeat part of their work for: the loss over a vocabulary makes its gradient with
// respect to a frozen head's input while it has the logits. Where the device has no kernel for both at once, both stay.
func join(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	joints := findJoints(g)
	if len(joints) == 0 {
		return g, outs, nil
	}
	r := graph.NewRewriter(g)
	ends := map[*graph.Node]func(in []graph.Value) []graph.Value{} // of the later nodes whose work is done
	for _, n := range g.Nodes() {
		if end, ok := ends[n]; ok {
			undo := r.New.OnBehalf(n)
			r.Set(n, end(r.GetAll(n.In)))
			undo()
			continue
		}
		j, ok := joints[n]
		if !ok {
			r.Move(n)
			continue
		}
		done, err := replace(p, r, n, n, j.op, r.GetAll(n.In))
		switch {
		case err != nil:
			return nil, nil, err
		case !done:
			r.Move(n)
		default:
			whole := r.Get(n.Output(0)).Node()
			var more []graph.Value
			for i := len(n.Out); i < len(whole.Out); i++ {
				more = append(more, whole.Output(i))
			}
			ends[j.later] = func(in []graph.Value) []graph.Value { return j.finish(in, more) }
		}
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// findJoints returns what nodes join with, by the earlier node of each pair.
func findJoints(g *graph.Graph) map[*graph.Node]joint {
	joints := map[*graph.Node]joint{}
	for _, later := range g.Nodes() {
		for _, v := range later.In {
			if !v.Valid() {
				continue
			}
			n := v.Node()
			j, ok := n.Op.(graph.Joiner)
			if _, taken := joints[n]; !ok || taken {
				continue
			}
			if op, finish, ok := j.Joined(n, later); ok {
				joints[n] = joint{later, op, finish}
				break
			}
		}
	}
	return joints
}
