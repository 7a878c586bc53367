//! Streams and events: what was asked for, and an order to do it in.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::time::Instant;

use scmmgpt_emulator::{Device, Error, Fault, Function, Launch, Place};

use crate::code::{Code, INVALID_HANDLE};
use crate::driver::Driver;

/// A host address that work on a stream reads or writes later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostAddress(pub(crate) usize);

/// One operation of a stream.
#[derive(Clone)]
pub(crate) enum Work {
    /// Bytes that were taken at the call.
    Write {
        to: u64,
        bytes: Vec<u8>,
    },
    /// Bytes of page-locked memory, read when the copy runs.
    WritePinned {
        to: u64,
        from: HostAddress,
        bytes: usize,
    },
    ReadPinned {
        to: HostAddress,
        from: u64,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: u64,
    },
    Fill {
        at: u64,
        pattern: Vec<u8>,
        count: u64,
    },
    Free {
        at: u64,
    },
    Launch {
        function: Function,
        launch: Launch,
    },
    Record {
        event: usize,
        number: u64,
    },
    Wait {
        event: usize,
        number: u64,
    },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    /// How often it was recorded, and the last record that is done.
    recorded: u64,
    pub(crate) done: u64,
    pub(crate) at: Option<Instant>,
}

/// A stream's work that is not done.
#[derive(Default)]
struct Stream {
    work: VecDeque<Work>,
    capture: Option<Vec<Work>>,
}

/// All streams and events.
pub(crate) struct Queues {
    streams: HashMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    random: u64,
    launches: u64,
}

impl Queues {
    pub(crate) fn new(seed: u64) -> Queues {
        // The null stream is always there.
        let streams = HashMap::from([(0, Stream::default())]);
        Queues { streams, events: HashMap::new(), random: seed ^ 0x2545_f491_4f6c_dd1d, launches: 0 }
    }

    pub(crate) fn open(&mut self, stream: usize) {
        self.streams.insert(stream, Stream::default());
    }

    pub(crate) fn close(&mut self, stream: usize) -> Result<(), Code> {
        self.streams.remove(&stream).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    fn stream(&mut self, stream: usize) -> Result<&mut Stream, Code> {
        // The legacy and per-thread default streams have handles of their own.
        let stream = if stream <= 2 { 0 } else { stream };
        self.streams.get_mut(&stream).ok_or(INVALID_HANDLE)
    }

    /// Queues work, or notes it in the capture of the stream.
    pub(crate) fn push(&mut self, stream: usize, work: Work) -> Result<(), Code> {
        let stream = self.stream(stream)?;
        match &mut stream.capture {
            Some(captured) => captured.push(work),
            None => stream.work.push_back(work),
        }
        Ok(())
    }

    pub(crate) fn begin_capture(&mut self, stream: usize) -> Result<(), Code> {
        self.stream(stream)?.capture = Some(Vec::new());
        Ok(())
    }

    pub(crate) fn end_capture(&mut self, stream: usize) -> Result<Option<Vec<Work>>, Code> {
        Ok(self.stream(stream)?.capture.take())
    }

    pub(crate) fn is_capturing(&mut self, stream: usize) -> Result<bool, Code> {
        Ok(self.stream(stream)?.capture.is_some())
    }

    /// The number of an event's next record.
    pub(crate) fn record(&mut self, event: usize) -> Result<u64, Code> {
        let event = self.events.get_mut(&event).ok_or(INVALID_HANDLE)?;
        event.recorded += 1;
        Ok(event.recorded)
    }

    /// The record that a wait for an event means; 0 if there was none.
    pub(crate) fn last_record(&self, event: usize) -> Result<u64, Code> {
        self.events.get(&event).map(|event| event.recorded).ok_or(INVALID_HANDLE)
    }

    pub(crate) fn is_done(&self, event: usize) -> Result<bool, Code> {
        self.events.get(&event).map(|event| event.done >= event.recorded).ok_or(INVALID_HANDLE)
    }

    pub(crate) fn is_empty(&mut self, stream: usize) -> Result<bool, Code> {
        Ok(self.stream(stream)?.work.is_empty())
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % bound.max(1) as u64) as usize
    }

    /// Streams whose first work may run now.
    fn ready(&self) -> Vec<usize> {
        let may = |work: &Work| match work {
            Work::Wait { event, number } => self.events.get(event).is_none_or(|event| event.done >= *number),
            _ => true,
        };
        let mut ready: Vec<usize> =
            self.streams.iter().filter(|(_, stream)| stream.work.front().is_some_and(may)).map(|(handle, _)| *handle).collect();
        ready.sort_unstable();
        ready
    }

    /// Does work until `until` holds. Which stream goes next is the seed's choice.
    pub(crate) fn run(&mut self, driver: &Driver, until: impl Fn(&mut Queues) -> Result<bool, Code>) -> Result<(), Code> {
        while !until(self)? {
            let ready = self.ready();
            if ready.is_empty() {
                // A wait for an event that nobody will record any more.
                return Err(crate::code::LAUNCH_FAILED);
            }
            let choice = ready[self.below(ready.len())];
            let Some(work) = self.streams.get_mut(&choice).and_then(|stream| stream.work.pop_front()) else { continue };
            self.perform(driver, work).map_err(|error| driver.report(&error))?;
        }
        Ok(())
    }

    fn perform(&mut self, driver: &Driver, work: Work) -> Result<(), Error> {
        let device: &Device = &driver.device;
        match work {
            Work::Write { to, bytes } => device.write(to, &bytes),
            Work::WritePinned { to, from, bytes } => {
                // SAFETY: the range was inside page-locked memory at the call, which the caller keeps until the stream is done.
                let source = unsafe { std::slice::from_raw_parts(from.0 as *const u8, bytes) };
                device.write(to, source)
            }
            Work::ReadPinned { to, from, bytes } => {
                let mut values = vec![0; bytes];
                device.read(from, &mut values)?;
                // SAFETY: as above, and nobody reads it before the stream is done.
                unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to.0 as *mut u8, bytes) };
                Ok(())
            }
            Work::Copy { to, from, bytes } => device.copy(to, from, bytes),
            Work::Fill { at, pattern, count } => device.fill(at, &pattern, count),
            Work::Free { at } => device.free(at),
            Work::Launch { function, launch } => {
                self.launches += 1;
                if self.launches == driver.faulty_launch {
                    let place = Place { kernel: function.name().into(), ..Place::default() };
                    return Err(Error::Kernel { place: place.into(), fault: Fault::Bounds { space: "global", address: 0, size: 4 } });
                }
                let counters = device.launch(&function, &launch);
                // Text that cannot be written is lost, as it is where standard output is closed.
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(&device.printed()).and_then(|()| out.flush());
                let counters = counters?;
                driver.counted(function.name(), &counters);
                Ok(())
            }
            Work::Record { event, number } => {
                if let Some(event) = self.events.get_mut(&event) {
                    (event.done, event.at) = (event.done.max(number), Some(Instant::now()));
                }
                Ok(())
            }
            Work::Wait { .. } => Ok(()),
        }
    }

    /// Drops what would still be copied to this place in the host's memory.
    pub(crate) fn forget_reads(&mut self, address: usize) {
        let stays = |work: &Work| !matches!(work, Work::ReadPinned { to, .. } if to.0 == address);
        self.streams.values_mut().for_each(|stream| stream.work.retain(stays));
    }

    /// Everything on every stream.
    pub(crate) fn finish(&mut self, driver: &Driver) -> Result<(), Code> {
        self.run(driver, |queues| Ok(queues.streams.values().all(|stream| stream.work.is_empty())))
    }

    /// Everything on one stream.
    pub(crate) fn finish_stream(&mut self, driver: &Driver, stream: usize) -> Result<(), Code> {
        if stream <= 2 {
            return self.finish(driver);
        }
        self.run(driver, |queues| queues.is_empty(stream))
    }

    /// An event's last record.
    pub(crate) fn finish_event(&mut self, driver: &Driver, event: usize) -> Result<(), Code> {
        self.run(driver, |queues| queues.is_done(event))
    }
}
