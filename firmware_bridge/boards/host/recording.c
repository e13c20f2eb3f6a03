typedef int fedge_recording_pending;
