// Package report writes what a run leaves behind and what its user watches: metrics.jsonl, TensorBoard events, the loss
// plot, manifest.json, the digest of the trained weights, and the progress line.
//
// A run may be killed at any instant and resumed from a checkpoint, so each file either is replaced whole (plot, manifest)
// or grows by complete records whose torn tail the next run removes (metrics, events). Clocks and outputs are injected.
package report
