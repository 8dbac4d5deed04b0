package policy

// Shelf keeps policies that were read out of a log, by their text, for those
// who read the same log more than once: nobody changes a Policy, so all may
// have the same one. A nil Shelf keeps none. It is not safe for concurrent use.
type Shelf map[string]*Policy

// Reread is Reread, unless the same text is on the shelf.
func (s Shelf) Reread(data []byte) (*Policy, error) {
	if p := s[string(data)]; p != nil {
		return p, nil
	}
	p, err := Reread(data)
	if err == nil && s != nil {
		s[string(data)] = p
	}
	return p, err
}
