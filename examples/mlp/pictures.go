package main

import (
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// pictures draws training data: each class is a fixed pattern of dots, and a picture is a few of its
// dots among noise.
type pictures struct {
	patterns [classes][pixels]float32
	rng      *rand.Rand
}

// newPictures returns a stream of pictures; every stream has the same classes.
func newPictures(stream uint64) *pictures {
	p := &pictures{rng: rand.New(rand.NewPCG(7, stream))}
	fixed := rand.New(rand.NewPCG(7, 0))
	for c := range p.patterns {
		for i := range p.patterns[c] {
			if fixed.Float32() < 0.1 {
				p.patterns[c][i] = 1
			}
		}
	}
	return p
}

// batch returns pictures (B, 784) and their classes (B).
func (p *pictures) batch() (x, y *tensor.Tensor, err error) {
	values, labels := make([]float32, batch*pixels), make([]int32, batch)
	for i := range labels {
		c := p.rng.IntN(classes)
		labels[i] = int32(c)
		for j := range pixels {
			if p.rng.Float32() < 0.2 {
				values[i*pixels+j] += p.patterns[c][j]
			}
			if p.rng.Float32() < 0.2 {
				values[i*pixels+j] = p.rng.Float32()
			}
		}
	}
	if x, err = tensor.Of(values, batch, pixels); err != nil {
		return nil, nil, err
	}
	y, err = tensor.Of(labels)
	return x, y, err
}
