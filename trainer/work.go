package trainer

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/device"
)

// workEvery is after how long, and how often, a log tells what a device is at.
const workEvery = 2 * time.Second

// tellWork logs what the device has done, and has left, of the work that the first start on a kind of device has to do, until the function that it
// returns is called. Nothing is logged of a start that finds all of it done.
func tellWork(ctx context.Context, dev device.Device, log *slog.Logger, every time.Duration) (end func()) {
	d, ok := dev.(device.Spender)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		told := ""
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if text := workText(d.Spent()); text != told && text != "" {
				told = text
				if err := unkept(dev); err != nil {
					log.Warn("each start on this device takes longer, as what it finds out cannot be kept", "reason", err, "done", text)
				} else {
					log.Info("the first start on this kind of device takes longer: what it finds out is kept", "done", text)
				}
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// unkept is why the next start will have to do the same again.
func unkept(dev device.Device) error {
	if k, ok := dev.(device.Keeper); ok {
		return k.Unkept()
	}
	return nil
}

// workText lists kinds of work of which it is known how much there is, in the order in which they came up; empty where none is left.
func workText(list []device.Spent) string {
	var parts []string
	left := false
	for _, s := range list {
		if s.Of > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d of %d", s.What, min(s.Count, s.Of), s.Of))
			left = left || s.Count < s.Of
		}
	}
	if !left {
		return ""
	}
	return strings.Join(parts, ", ")
}
