package trainer

import (
	"errors"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Execution says how a device computes where it has a choice. The zero value is the default; a run has the same settings as train.launch,
// deterministic and train.tf32.
type Execution struct {
	Launch        string // how launches reach a GPU: "captured" (or ""), "plain" or "synced", see plan.Launching
	Deterministic bool   // the same bits on every repetition
	TF32          bool   // products of float32 may round their operands
}

// Open opens a device by its name ("" = auto) and tells it how to compute. What is wrong is a config.ErrConfig.
func (e Execution) Open(name string) (device.Device, error) {
	if _, err := plan.ParseLaunching(e.Launch); err != nil {
		return nil, badConfig("launch", "%v", err)
	}
	dev, err := device.Open(name)
	if err != nil {
		return nil, &config.ErrConfig{Reason: err.Error(), Err: err} // it names the device
	}
	if err := e.set(dev); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// set tells a device that has a choice how to compute.
func (e Execution) set(dev device.Device) error {
	c, ok := dev.(device.Chooser)
	if !ok {
		return nil
	}
	if err := c.SetArithmetic(device.Arithmetic{Deterministic: e.Deterministic, TF32: e.TF32}); err != nil {
		return fmt.Errorf("device: %w", err)
	}
	return nil
}

// Launching is the way that Launch names. Open refuses a name that is not known; here it is the default.
func (e Execution) Launching() plan.Launching {
	way, _ := plan.ParseLaunching(e.Launch)
	return way
}

// Session is a session around a store whose plans are launched as e says.
func (e Execution) Session(store *plan.Store) *plan.Session {
	s := plan.NewSession(store)
	s.SetLaunching(e.Launching())
	return s
}
