// Package models holds the model families: structs of layers named like the checkpoints, built from a configuration and a source
// of weights.
//
// A family is what config.json calls model_type. Each has a file of its own with a row of the registry, a family:
//
//   - parse reads the keys of config.json that transformers' class of this type reads, with its defaults, and refuses by name what
//     would change the numbers and is not implemented. Keys that all families share are read before it, by hfFile.common.
//   - build declares the layers from a Source and returns them as a Body. Tags give every field the name that it has in the
//     checkpoint, so that walking the model gives its state dict, the targets of adapters and the names that are written.
//     A Backbone of Blocks does for families that differ in their attention and MLP only; a type of its own with the four methods of
//     Body for those that differ in more, as GPT-2. Where files have other names than the model, Source.WithNames maps them.
//   - keys writes the family's own keys of config.json, for a Config that was read from somewhere else.
//
// To add one: write the file, add its row to families in registry.go, and put a folder of reference results beside the others; the
// golden tests and TestFamilies take it from there. A Config holds what the families have in common, so that readers of other
// formats can make one; its zero values are Llama's.
package models
