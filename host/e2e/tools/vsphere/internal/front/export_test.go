package front

// Waiting is the number of WaitForUpdatesEx calls that are under way.
func (f *Front) Waiting() int {
	f.waits.mu.Lock()
	defer f.waits.mu.Unlock()
	return len(f.waits.running)
}
